"""A model's weights as their files describe them: names, shapes and sizes, without the weights.

Knows no torch: a header is read in a moment, before anything slow begins.
"""

import json
import os
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from llmapi.engine.source import LoadError

FLOATS = ("F64", "F32", "F16", "BF16")
"""Types that become the dtype in force when they are loaded; all others stay as they are."""

_LENGTH_BYTES = 8
_LONGEST = 100_000_000
"""Bytes of a header, at most (safetensors' own limit)."""

_GGUF_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value of a GGUF file's header, by its type."""
_GGUF_STRING, _GGUF_ARRAY = 8, 9

_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """What a file says of one tensor."""

    dtype: str
    """As safetensors writes it: `F16`."""
    shape: tuple[int, ...]
    bytes: int
    again: bool = False
    """Another name for numbers that the file has under a name before, as of tied embeddings."""

    @property
    def count(self) -> int:
        return prod(self.shape)


def read_headers(paths: list[Path]) -> dict[str, TensorHeader]:
    """The tensors of safetensors files. Raises LoadError: unreadable, cut short, or empty."""
    found: dict[str, TensorHeader] = {}
    for path in paths:
        found |= _read_header(path)
    if not found:
        raise LoadError(f"'{paths[0]}' is empty: there is no tensor in it.")
    return found


def numbers_in_gguf(path: Path) -> int:
    """How many numbers the tensors of a GGUF file hold. Raises LoadError."""
    try:
        with path.open("rb") as file:
            _, _, tensors, pairs = struct.unpack("<4sIQQ", file.read(24))
            for _ in range(pairs):
                _skip_string(file)
                _skip_value(file, *_unpack("<I", file))
            return sum(_count_tensor(file) for _ in range(tensors))
    except (OSError, struct.error, KeyError, OverflowError) as error:
        raise LoadError(f"'{path}' is no GGUF file that can be read: fetch it again.") from error


def _unpack(pattern: str, file: BinaryIO) -> tuple[int, ...]:
    return struct.unpack(pattern, file.read(struct.calcsize(pattern)))


def _skip_string(file: BinaryIO) -> None:
    (length,) = _unpack("<Q", file)
    file.seek(length, os.SEEK_CUR)


def _skip_value(file: BinaryIO, kind: int) -> None:
    if kind == _GGUF_STRING:
        _skip_string(file)
    elif kind == _GGUF_ARRAY:
        inner, length = _unpack("<IQ", file)
        if inner in _GGUF_SIZES:
            file.seek(_GGUF_SIZES[inner] * length, os.SEEK_CUR)
            return
        for _ in range(length):
            _skip_value(file, inner)
    else:
        file.seek(_GGUF_SIZES[kind], os.SEEK_CUR)


def _count_tensor(file: BinaryIO) -> int:
    _skip_string(file)
    (dimensions,) = _unpack("<I", file)
    shape = _unpack(f"<{dimensions}Q", file)
    _unpack("<IQ", file)  # its type, and where it is
    return prod(shape)


def _read_header(path: Path) -> dict[str, TensorHeader]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(_LENGTH_BYTES)
            length = int.from_bytes(first, "little")
            if first + file.read(len(_POINTER) - len(first)) == _POINTER:
                raise LoadError(
                    f"'{path}' is only a pointer of git-lfs: fetch the weights with 'git lfs pull'."
                )
            file.seek(_LENGTH_BYTES)
            text = file.read(length) if length <= min(size, _LONGEST) else b""
    except OSError as error:
        raise LoadError(f"'{path}' cannot be read: {error.strerror}.") from error
    try:
        values = json.loads(text)
        values.pop("__metadata__", None)
        found = {name: _tensor(value) for name, value in values.items()}
        ends = [value["data_offsets"][1] for value in values.values()]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise LoadError(f"'{path}' is not a safetensors file: fetch it again.") from error
    whole = _LENGTH_BYTES + length + max(ends, default=0)
    if size < whole:
        raise LoadError(f"'{path}' is cut short ({size:,} of {whole:,} bytes): fetch it again.")
    return found


def _tensor(value: dict[str, Any]) -> TensorHeader:
    begin, end = value["data_offsets"]
    return TensorHeader(str(value["dtype"]), tuple(map(int, value["shape"])), int(end) - int(begin))
