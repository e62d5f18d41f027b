"""A tokenizer's vocabulary, as bytes: what each token adds to the text. Knows no torch."""

import codecs
import json
from collections.abc import Callable
from collections.abc import Sequence as ListOf
from typing import Any, Protocol, cast

REPLACEMENT = "\ufffd"

MAX_HELD_TOKENS = 8
"""Tokens held back while their text may still be half a character (at most 4 bytes); then it is
sent as is."""

TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|eot|>")
"""What ends an answer in chat templates. Some models' files name only the end of a document."""


class TextStream(Protocol):
    """Turns tokens into text as they come, whole characters only."""

    def push(self, token: int) -> str: ...

    def finish(self) -> str:
        """Text still held back, without half a character at its end."""
        ...


class Vocabulary:
    """Opens a text stream for each sequence.

    Byte-level BPE and SentencePiece (with byte fallback) spell every token as bytes, so text is a
    matter of decoding UTF-8 incrementally: exact, and constant work per token. Any other kind of
    tokenizer goes through its own `decode` over a short window.
    """

    def __init__(self, tokenizer: Any) -> None:
        """`tokenizer`: what `load_tokenizer` makes. It is read, never changed."""
        self._tokenizer = tokenizer
        added = getattr(tokenizer, "added_tokens_decoder", {})
        special = {token_id for token_id, token in added.items() if token.special}
        self.special_ids = frozenset(special | set(tokenizer.all_special_ids))
        self._spell = _speller(tokenizer)
        self._bytes: dict[int, bytes] = {}

    def stream(self, prompt: ListOf[int]) -> TextStream:
        """A stream for text that continues `prompt`: together they read as if decoded in one go."""
        at_start = all(token in self.special_ids for token in prompt)
        if self._spell is not None:
            return ByteStream(self.bytes_of, strip_space=at_start and self._strips_first_space())
        context = [t for t in prompt[-32:] if t not in self.special_ids][-4:]
        return WindowStream(self._decode, context)

    def bytes_of(self, token: int) -> bytes:
        """What the token adds to the text; nothing for special tokens and ids that the tokenizer
        lacks. Exact for byte-level BPE and SentencePiece, else what the token reads like alone."""
        spelled = self._bytes.get(token)
        if spelled is None:
            piece = self._tokenizer.convert_ids_to_tokens(token)
            visible = piece is not None and token not in self.special_ids
            spelled = self._spelling(token, piece) if visible else b""
            self._bytes[token] = spelled
        return spelled

    def _spelling(self, token: int, piece: str) -> bytes:
        return self._spell(piece) if self._spell else self._decode([token]).encode()

    def _strips_first_space(self) -> bool:
        """Whether `decode` drops the space that SentencePiece puts before a text's first word."""
        if hasattr(self._tokenizer, "adds_space"):
            return bool(self._tokenizer.adds_space)
        return any(
            part["type"] in ("Strip", "Metaspace") for part in _decoder_parts(self._tokenizer)
        )

    def _decode(self, tokens: list[int]) -> str:
        text = self._tokenizer.decode(
            [t for t in tokens if t not in self.special_ids], clean_up_tokenization_spaces=False
        )
        return str(text)


class ByteStream:
    """UTF-8 decoding byte by byte: an unfinished character waits, an invalid byte is U+FFFD at
    once."""

    def __init__(self, bytes_of: Callable[[int], bytes], *, strip_space: bool) -> None:
        self._bytes_of = bytes_of
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._strip_space = strip_space

    def push(self, token: int) -> str:
        text = self._decoder.decode(self._bytes_of(token))
        if self._strip_space and text:
            self._strip_space = False
            text = text.removeprefix(" ")
        return text

    def finish(self) -> str:
        return ""


class WindowStream:
    """Decodes the last few tokens again and again, and sends what is new."""

    def __init__(self, decode: Callable[[list[int]], str], context: list[int]) -> None:
        self._decode = decode
        self._context = context
        self._sent = decode(context)
        self._held: list[int] = []

    def push(self, token: int) -> str:
        self._held.append(token)
        text = self._fresh()
        if text.endswith(REPLACEMENT) and len(self._held) < MAX_HELD_TOKENS:
            return ""
        self._context = self._held
        self._sent = self._decode(self._context)
        self._held = []
        return text

    def finish(self) -> str:
        return self._fresh().rstrip(REPLACEMENT) if self._held else ""

    def _fresh(self) -> str:
        return self._decode(self._context + self._held)[len(self._sent) :]


def _decoder_parts(tokenizer: Any) -> list[dict[str, Any]]:
    """The steps of a fast tokenizer's decoder, in order; empty if it has none or is a slow one."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = getattr(backend, "decoder", None)
    if decoder is None:
        return []
    state = json.loads(decoder.__getstate__())
    return list(state["decoders"]) if state["type"] == "Sequence" else [state]


def _speller(tokenizer: Any) -> Callable[[str], bytes] | None:
    if hasattr(tokenizer, "spell"):  # llmapi.engine.tokenizer's
        return cast(Callable[[str], bytes], tokenizer.spell)
    parts = _decoder_parts(tokenizer)
    kinds = {part["type"] for part in parts}
    if kinds == {"ByteLevel"}:
        return _spell_byte_level
    if kinds and kinds <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}:
        replaces = [part for part in parts if part["type"] == "Replace"]
        if all(p["pattern"] == {"String": "▁"} and p["content"] == " " for p in replaces):
            return _spell_with_fallback if "ByteFallback" in kinds else _spell_sentencepiece
    return None


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 characters stand for themselves, the other bytes for
    U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(0x100 + place): byte for place, byte in enumerate(others)}


_ALPHABET = _byte_alphabet()


def _spell_byte_level(piece: str) -> bytes:
    try:
        return bytes(_ALPHABET[character] for character in piece)
    except KeyError:  # an added token is written as plain text
        return piece.encode()


def _spell_sentencepiece(piece: str) -> bytes:
    return piece.replace("▁", " ").encode()


def _spell_with_fallback(piece: str) -> bytes:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    return _spell_sentencepiece(piece)
