"""Directories whose only tokenizer is a small SentencePiece model, trained on the spot.

No pytest here, so that any test may use it.
"""

import functools
import io
import json
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from sentencepiece.sentencepiece_model_pb2 import ModelProto

TEXT = """
A river runs through the old town, and on both banks there are houses with small gardens.
What is the capital of China? The capital of China is Beijing, a city of many millions.
Write a response that appropriately completes the request. You are a helpful assistant.
    for number in range(10):
床前明月光，疑是地上霜。举头望明月，低头思故乡。
请告诉我三个关于健康的建议：早睡早起，多喝水。你是一个乐于助人的助手。
"""
CHINESE = ["中国", "中国的", "的首都", "首都", "北京", "你好", "告诉我", "▁中", "京。"]
"""Pieces that Chinese-LLaMA would have appended to LLaMA's."""


@functools.cache
def trained(kind: str = "bpe", symbols: tuple[str, ...] = ()) -> bytes:
    """A model as LLaMA's was trained: what is rare is left to byte fallback."""
    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.strip("\n").splitlines()),
        model_writer=written,
        model_type=kind,
        vocab_size=400,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        user_defined_symbols=list(symbols),
        num_threads=1,
        minloglevel=2,
    )
    return written.getvalue()


def extended(model: bytes) -> bytes:
    """With Chinese pieces behind the others, all of score 0: as Chinese-LLaMA's was made."""
    proto = ModelProto.FromString(model)
    for piece in CHINESE:
        proto.pieces.add(piece=piece, score=0.0)
    return bytes(proto.SerializeToString())


def size(model: bytes) -> int:
    return len(ModelProto.FromString(model).pieces)


def write(directory: Path, model: bytes | None = None, **files: Any) -> Path:
    """`tokenizer.model`, and the JSON of these files: `tokenizer_config={...}` and the like."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.model").write_bytes(model or trained())
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory


def itself(directory: Path) -> SentencePieceProcessor:
    """SentencePiece on that file, for comparison."""
    return SentencePieceProcessor(model_file=str(directory / "tokenizer.model"))
