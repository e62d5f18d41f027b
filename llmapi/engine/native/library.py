"""decoder.c as a Python module: compiled when it is first needed, and its structures for ctypes."""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from ctypes import POINTER, Structure, c_float, c_int, c_int64, c_void_p
from pathlib import Path

import torch
from torch import Tensor

SOURCES = tuple(Path(__file__).with_name(name) for name in ("decoder.c", "team.h"))
FLAGS = (
    *("-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math"),
    *("-fPIC", "-shared", "-std=gnu11", "-Wno-psabi"),
)
BLOCK, GROUP, MAX_QUERIES = 16, 32, 32
KINDS = {"float32": 0, "bfloat16": 1, "int8": 2}
"""As in decoder.c."""


class NativeUnavailable(Exception):
    """The decoder cannot be built here; the message says why."""


class Linear(Structure):
    _fields_ = [
        ("weights", c_void_p),
        ("scales", c_void_p),
        ("bias", c_void_p),
        ("inputs", c_int64),
        ("outputs", c_int64),
        ("kind", c_int64),
    ]


class Inputs(Structure):
    _fields_ = [
        ("values", c_void_p),
        ("scales", c_void_p),
        ("starts", c_void_p),
    ]


class Layer(Structure):
    _fields_ = [
        ("qkv", Linear),
        ("o", Linear),
        ("gate_up", Linear),
        ("down", Linear),
        ("attention_norm", c_void_p),
        ("mlp_norm", c_void_p),
        ("q_norm", c_void_p),
        ("k_norm", c_void_p),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("window", c_int64),
    ]


class Delta(Structure):
    _fields_ = [("a", c_void_p), ("b", c_void_p), ("rank", c_int64), ("inputs", c_int64)]


class AdapterLayer(Structure):
    _fields_ = [("qkv", Delta), ("o", Delta), ("gate_up", Delta), ("down", Delta)]


class Decoder(Structure):
    _fields_ = [
        ("layers", POINTER(Layer)),
        ("embedding", c_void_p),
        ("norm", c_void_p),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("layer_count", c_int64),
        ("hidden", c_int64),
        ("heads", c_int64),
        ("kv_heads", c_int64),
        ("head_dim", c_int64),
        ("inner", c_int64),
        ("blocks", c_int64),
        ("threads", c_int64),
        ("narrow", c_int64),
        ("epsilon", c_float),
        ("scale", c_float),
        ("state", c_void_p),
        ("normed", c_void_p),
        ("qkv", c_void_p),
        ("attended", c_void_p),
        ("activated", c_void_p),
        ("inputs", Inputs),
        ("low", c_void_p),
        ("most_rank", c_int64),
    ]


class Step(Structure):
    _fields_ = [
        ("rows", c_int64),
        ("pieces", c_int64),
        ("tokens", c_void_p),
        ("positions", c_void_p),
        ("slots", c_void_p),
        ("piece", c_void_p),
        ("tables", c_void_p),
        ("adapters", c_void_p),
        ("out", c_void_p),
    ]


_loaded: ctypes.CDLL | None = None


def load(cache_dir: Path, announce: Callable[[], None] = lambda: None) -> ctypes.CDLL:
    """The library, compiled for this CPU where that has not been done yet; `announce` is called
    before.

    It is kept in the user's own cache directory, or in `cache_dir` where that cannot be written.
    Raises NativeUnavailable.
    """
    global _loaded
    if _loaded is None:
        library = opened(_built(cache_dir, announce))
        if not _computes(library):
            raise NativeUnavailable("what the compiler made of it computes wrong numbers")
        _loaded = library
    return _loaded


def opened(path: Path) -> ctypes.CDLL:
    """A compiled decoder.c, its functions declared. Raises NativeUnavailable."""
    try:
        return _declare(ctypes.CDLL(str(path)))
    except OSError as error:  # a directory where nothing may be executed, a damaged file
        raise NativeUnavailable(f"what was compiled cannot be loaded ({error})") from error


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    library.decoder_forward.argtypes = [POINTER(Decoder), POINTER(Step)]
    library.decoder_forward.restype = c_int
    library.decoder_linear.argtypes = [
        POINTER(Linear), c_void_p, c_int64, c_int64, c_void_p, c_int64, POINTER(Inputs)
    ]  # fmt: skip
    library.decoder_linear.restype = c_int
    library.decoder_pack.argtypes = [
        POINTER(Linear), c_void_p, c_int64, c_int64, c_int64, c_int64
    ]  # fmt: skip
    library.decoder_pack.restype = None
    library.decoder_panel.restype = c_int64
    return library


def _built(cache_dir: Path, announce: Callable[[], None]) -> Path:
    if platform.system() != "Linux":
        raise NativeUnavailable("it is built on Linux only")
    compiler = (
        shlex.split(os.environ.get("CC", ""))
        or [found for name in ("gcc", "cc") if (found := shutil.which(name))][:1]
    )
    if not compiler:
        raise NativeUnavailable("there is no C compiler (install gcc)")
    key = hashlib.sha256()
    for part in (
        *(source.read_bytes() for source in SOURCES),
        " ".join(FLAGS).encode(),
        _cpu(),
        _version(compiler),
    ):
        key.update(part)
    name = f"decoder-{key.hexdigest()[:16]}.so"
    places = (_user_cache() / name, cache_dir / name)
    for place in places:
        if place.exists():
            return place
    announce()
    for place in places:
        with suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            compile_to(place, compiler)
            return place
    raise NativeUnavailable(f"neither {places[0].parent} nor {places[1].parent} can be written")


def _user_cache() -> Path:
    given = os.environ.get("XDG_CACHE_HOME")
    return (Path(given) if given else Path.home() / ".cache") / "llmapi"


def inputs_for(rows: int, width: int) -> tuple[Inputs, list[Tensor]]:
    """Scratch for the inputs of products, and the memory that it points to."""
    groups = -(-width // GROUP)
    values, scales = torch.empty(rows * groups * GROUP), torch.empty(rows * groups)
    starts = torch.empty(rows * groups, dtype=torch.int32)
    memory = [values, scales, starts]
    return Inputs(*(tensor.data_ptr() for tensor in memory)), memory


def product(library: ctypes.CDLL, kind: str, x: Tensor, weight: Tensor) -> Tensor:
    """x W^T for x `[rows, width]` and W `[outputs, width]`, by itself: for trying a library out."""
    (rows, width), outputs = x.shape, weight.shape[0]
    padded = -(-width // GROUP) * GROUP
    panel = library.decoder_panel()
    size = -(-outputs // panel) * panel * padded
    packed = torch.empty(size, dtype=getattr(torch, kind))
    scales = torch.empty(size // GROUP, dtype=torch.bfloat16)
    linear = Linear(
        weights=packed.data_ptr(),
        scales=scales.data_ptr(),
        inputs=padded,
        outputs=outputs,
        kind=KINDS[kind],
    )
    library.decoder_pack(ctypes.byref(linear), weight.data_ptr(), outputs, width, 0, 1)
    out = torch.full((rows, outputs), torch.nan)
    inputs, _scratch = inputs_for(rows, padded)
    library.decoder_linear(
        ctypes.byref(linear), x.data_ptr(), rows, width, out.data_ptr(), 1, ctypes.byref(inputs)
    )
    return out


def _computes(library: ctypes.CDLL) -> bool:
    """A product of each kind, nearly as torch has it: no layout and no instruction is mistaken."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(25, 96, generator=generator)
    weight = torch.randn(40, 96, generator=generator)
    expected = x @ weight.T
    off = [(product(library, kind, x, weight) - expected).abs().max() for kind in KINDS]
    return all(float(most) < 0.02 * float(expected.abs().max()) for most in off)


def compile_to(target: Path, compiler: Sequence[str], flags: Sequence[str] = FLAGS) -> None:
    """Raises NativeUnavailable (the compiler cannot be run, or refuses), OSError."""
    # Linked against torch's own OpenMP: two teams of threads would fight for the cores.
    runtimes = sorted(Path(torch.__file__).parent.glob("lib/libgomp*"))
    runtimes += sorted((Path(torch.__file__).parent.parent / "torch.libs").glob("libgomp*"))
    with tempfile.TemporaryDirectory(dir=target.parent) as directory:
        made = Path(directory) / target.name
        command = [
            *compiler,
            *flags,
            str(SOURCES[0]),
            "-o",
            str(made),
            *map(str, runtimes[:1]),
            "-lm",
        ]
        try:
            done = subprocess.run(  # noqa: S603  # the operator's own compiler
                command, capture_output=True, text=True, timeout=300, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NativeUnavailable(f"{compiler[0]} cannot be run ({error})") from error
        if done.returncode:
            raise NativeUnavailable(f"{compiler[0]} refused it: {done.stderr.strip()[-500:]}")
        made.replace(target)


def _cpu() -> bytes:
    """What `-march=native` goes by: a cache directory may move to another machine."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("flags", "Features")):
            return line.encode()
    return platform.processor().encode()


def _version(compiler: Sequence[str]) -> bytes:
    try:
        command = [*compiler, "--version"]
        return subprocess.run(command, capture_output=True, check=False).stdout  # noqa: S603
    except OSError as error:
        raise NativeUnavailable(f"{compiler[0]} cannot be started ({error})") from error
