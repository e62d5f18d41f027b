"""A model's weights as their files describe them: names, shapes and sizes, without the weights.

Knows no torch: a header is read in a moment, before anything slow begins.
"""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from llmapi.engine.source import LoadError

FLOATS = ("F64", "F32", "F16", "BF16")
"""Types that become the dtype in force when they are loaded; all others stay as they are."""

_LENGTH_BYTES = 8
_LONGEST = 100_000_000
"""Bytes of a header, at most (safetensors' own limit)."""

_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """What a file says of one tensor."""

    dtype: str
    """As safetensors writes it: `F16`."""
    shape: tuple[int, ...]
    bytes: int

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
