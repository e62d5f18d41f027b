"""The tensors of a file that `torch.save` wrote, by names, types and shapes, without torch.

Nothing that the pickle names is imported or called: what tensors are made of is put down as a
header, and any other name ends the reading. The weights themselves are not looked at.
"""

import pickle
import zipfile
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

from llmapi.engine.headers import TensorHeader

_STORAGES = {
    "DoubleStorage": ("F64", 8),
    "FloatStorage": ("F32", 4),
    "HalfStorage": ("F16", 2),
    "BFloat16Storage": ("BF16", 2),
    "LongStorage": ("I64", 8),
    "IntStorage": ("I32", 4),
    "ShortStorage": ("I16", 2),
    "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1),
    "BoolStorage": ("BOOL", 1),
}
"""Names in torch -> (safetensors' name of the type, bytes of a number)."""


def read_pickled(paths: list[Path]) -> dict[str, TensorHeader] | None:
    """The tensors of these files; None if that cannot be told: a file in torch's format before
    1.6, damaged, or with more in it than tensors. torch says more of it when it reads them."""
    found: dict[str, TensorHeader] = {}
    for path in paths:
        try:
            with zipfile.ZipFile(path) as archive:
                (name,) = (n for n in archive.namelist() if n.endswith("/data.pkl"))
                with archive.open(name) as file:
                    value = _Reader(file).load()
        except Exception:  # a pickle that is no state dict may fail in any way
            return None
        if not isinstance(value, dict):
            return None
        tensors = {str(k): v for k, v in value.items() if isinstance(v, TensorHeader)}
        first = {id(header): name for name, header in reversed(tensors.items())}
        for name, header in tensors.items():
            found[name] = header if first[id(header)] == name else replace(header, again=True)
    return found or None


class _Reader(pickle.Unpickler):
    """Headers in place of tensors, and nothing else but dictionaries of them."""

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.seen: set[tuple[object, ...]] = set()

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return name
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self.tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _parameter
        if (module, name) == ("collections", "OrderedDict"):
            return _Dict
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a tensor")

    def persistent_load(self, pid: Any) -> tuple[str, object]:
        """("storage", its class, key, device, numbers) -> the class's name, and the key."""
        return str(pid[1]), pid[2]

    def tensor(
        self, storage: tuple[str, object], offset: int, size: tuple[int, ...], *_: object
    ) -> TensorHeader:
        kind, item_bytes = _STORAGES[storage[0]]
        place = (storage[1], offset, size)
        again, shape = place in self.seen, tuple(map(int, size))
        self.seen.add(place)
        return TensorHeader(kind, shape, prod(shape) * item_bytes, again)


class _Dict(dict[str, Any]):
    """A state dict carries attributes (`_metadata`), which are left out."""

    def __setstate__(self, state: object) -> None:
        pass


def _parameter(data: TensorHeader, *_: object) -> TensorHeader:
    return data
