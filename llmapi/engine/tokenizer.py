"""The tokenizer of a directory: SentencePiece's own where that is all there is, else
transformers'."""

import json
import re
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]
from transformers import AutoTokenizer
from transformers.models.auto.tokenization_auto import (
    TOKENIZER_MAPPING_NAMES,
    tokenizer_class_from_name,
)
from transformers.tokenization_utils_sentencepiece import SentencePieceBackend
from transformers.utils import chat_template_utils

_PLAIN = {"llamatokenizer", "tokenizersbackend", "sentencepiecebackend", "mistralcommonbackend"}
"""Classes that add nothing to their SentencePiece model but tokens around a text."""


def load_tokenizer(directory: str | Path, **options: Any) -> Any:
    """The tokenizer of a local directory; no code from there is run.

    Raises whatever transformers does, and ValueError with what to do about a `tokenizer.model` that
    was never downloaded.
    """
    if is_sentencepiece(Path(directory)):
        kind: Any = SentencePieceTokenizer
    else:
        kind, options = AutoTokenizer, options | {"trust_remote_code": False}
    return kind.from_pretrained(directory, local_files_only=True, **options)


def is_sentencepiece(directory: Path) -> bool:
    """Whether the tokenizer is a SentencePiece model and no more: there is no `tokenizer.json`, and
    no class is named that does other things."""
    model = directory / "tokenizer.model"
    if not model.is_file() or (directory / "tokenizer.json").is_file():
        return False
    with model.open("rb") as file:
        if file.read(23) == b"version https://git-lfs":
            raise ValueError(
                f"'{model}' is a Git LFS pointer, not the file itself: fetch it with 'git lfs pull'"
            )
    name = _class_name(directory)
    if name and name.lower().removesuffix("fast") not in _PLAIN and tokenizer_class_from_name(name):
        return False
    try:
        SentencePieceProcessor(model_file=str(model))
    except RuntimeError:
        return False  # LLaMA 3's file of this name has another format
    return True


def _class_name(directory: Path) -> str | None:
    """What the directory's files call its tokenizer, or else what its kind of model has."""
    config = _json(directory / "config.json")
    named = _json(directory / "tokenizer_config.json").get("tokenizer_class")
    default = TOKENIZER_MAPPING_NAMES.get(config.get("model_type", ""))
    return named or config.get("tokenizer_class") or default


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _any_of(tokens: set[str]) -> str:
    """A regular expression for these strings, the longest that fits."""
    longest_first = sorted(tokens - {""}, key=len, reverse=True)
    return "|".join(map(re.escape, longest_first)) or "(?!)"


class SentencePieceTokenizer(SentencePieceBackend):
    """A `tokenizer.model`, its ids those of SentencePiece itself; see docs/decisions/0010.

    transformers reads the files beside it, renders chats and marks what users typed. Encoding and
    decoding are ours, and change nothing: they may run on several threads at once.

    Special tokens are never found in plain text; in a rendered chat, those of the template are.
    SentencePiece puts a space before a text's first word. Text that follows a special token gets
    one too if `legacy` is set, as it is where the files say nothing: so these models were trained.
    """

    model_input_names = ["input_ids", "attention_mask"]
    padding_side = "left"

    def __init__(
        self,
        vocab_file: str,
        legacy: bool | None = None,
        add_bos_token: bool = True,
        add_eos_token: bool = False,
        **kwargs: Any,
    ) -> None:
        model = SentencePieceProcessor(model_file=vocab_file)
        for name in ("bos", "eos", "unk"):
            number = getattr(model, f"{name}_id")()
            named = str(kwargs.get(f"{name}_token", ""))
            if number >= 0 and not named:  # LLaMA's first files name the empty string
                kwargs[f"{name}_token"] = model.id_to_piece(number)
        around = [
            name
            for name, wanted in (("bos", add_bos_token), ("eos", add_eos_token))
            if wanted and kwargs.get(f"{name}_token")
        ]
        kwargs |= {"special_tokens_pattern": "_".join(around) or "none", "sp_model_kwargs": {}}
        # `legacy`, to them, is to leave the model as it is.
        super().__init__(vocab_file=vocab_file, **(kwargs | {"legacy": True}))
        self.legacy = True if legacy is None else legacy
        self._read(model)

    def _read(self, model: SentencePieceProcessor) -> None:
        proto = ModelProto.FromString(model.serialized_model_proto())
        kinds = ModelProto.SentencePiece
        for number, token in self.added_tokens_decoder.items():
            in_model = number < len(proto.pieces) and proto.pieces[number].type != kinds.UNKNOWN
            if token.special and in_model:
                proto.pieces[number].type = kinds.CONTROL
        self._bytes = {p.piece: int(p.piece[3:5], 16) for p in proto.pieces if p.type == kinds.BYTE}
        self._symbols = {p.piece for p in proto.pieces if p.type == kinds.USER_DEFINED}
        self.adds_space = proto.normalizer_spec.add_dummy_prefix
        """Whether a text's first word gets a space, which decoding drops again."""
        self._first = SentencePieceProcessor(model_proto=proto.SerializeToString())
        proto.normalizer_spec.add_dummy_prefix = False
        self._further = SentencePieceProcessor(model_proto=proto.SerializeToString())
        own = f"(?P<own>{_any_of({*self._added_tokens_encoder})})"
        typed = f"(?P<typed>{_any_of({*self._added_tokens_encoder, *self._symbols})})"
        # By their module: older versions, with which the engine alone may run, lack them.
        start = chat_template_utils._CONTROL_TOKEN_START
        end = chat_template_utils._CONTROL_TOKEN_END
        self._own = re.compile(own)
        self._marked = re.compile(f"{start}{typed}{end}|[{start}{end}]|{own}")

    # ---- encoding -------------------------------------------------------------------------------

    def _encode_plus(  # type: ignore[override]
        self,
        text: Any,
        text_pair: Any = None,
        add_special_tokens: bool = True,
        split_special_tokens: bool | None = None,
        sanitize_control_tokens: bool = False,
        **kwargs: Any,
    ) -> Any:
        plain = self.split_special_tokens if split_special_tokens is None else split_special_tokens
        if isinstance(text, str):
            if sanitize_control_tokens:
                text = self._encode_chat(text, self._marked)
            else:
                text = self._first.encode(text) if plain else self._encode_chat(text, self._own)
            if not text:  # an empty list would be taken for an empty batch
                return self.prepare_for_model([], add_special_tokens=add_special_tokens)
        kwargs |= {
            "split_special_tokens": plain,
            "sanitize_control_tokens": sanitize_control_tokens,
        }
        return super()._encode_plus(text, text_pair, add_special_tokens, **kwargs)

    def _encode_chat(self, chat: str, tokens: re.Pattern[str]) -> list[int]:
        ids: list[int] = []
        run, model, place = "", self._first, 0
        for match in tokens.finditer(chat):
            run, place = run + chat[place : match.start()], match.end()
            found = match.groupdict()
            typed = found.get("typed") or ""
            if own := found["own"]:
                number = self._added_tokens_encoder[own]
                token = self._added_tokens_decoder[number]
                ids += [*model.encode(run.rstrip() if token.lstrip else run), number]
                run, model = "", self._first if self.legacy else self._further
                if token.rstrip:
                    place += len(chat[place:]) - len(chat[place:].lstrip())
            elif typed in self._symbols:  # which the model finds in any text, unless it is in two
                ids += model.encode(run + typed[:1])
                run, model = typed[1:], self._further
            else:
                run += typed
        return ids + list(model.encode(run + chat[place:]))

    def _get_control_tokens(self, chat_template: str) -> tuple[str, ...]:
        """What is marked where users type it: special tokens, and others that the template uses."""
        told = chat_template_utils._get_template_literal_text(chat_template)
        symbols = (symbol for symbol in self._symbols if symbol in told and not symbol.isspace())
        return (*super()._get_control_tokens(chat_template), *symbols)

    # ---- decoding -------------------------------------------------------------------------------

    def spell(self, piece: str) -> bytes:
        """What a token adds to a text, given its piece."""
        byte = self._bytes.get(piece)
        return piece.replace("▁", " ").encode() if byte is None else bytes([byte])

    def _decode(self, token_ids: Any, skip_special_tokens: bool = False, *_: Any, **__: Any) -> str:
        numbers = [token_ids] if isinstance(token_ids, int) else token_ids
        pieces = self.convert_ids_to_tokens([*numbers], skip_special_tokens=skip_special_tokens)
        text = b"".join(self.spell(piece) for piece in pieces if piece).decode(errors="replace")
        return text.removeprefix(" ") if self.adds_space else text

    def _convert_id_to_token(self, index: int) -> str:
        """Empty for ids that only the model has."""
        known = 0 <= index < self.sp_model.get_piece_size()
        return str(self.sp_model.id_to_piece(index)) if known else ""
