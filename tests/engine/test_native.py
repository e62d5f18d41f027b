"""The decoder in C: exact where it must be, bit for bit the same in any company, honest where it
cannot be built."""

import ctypes
from pathlib import Path

import pytest
import torch
from driving import ask, drive, make_engine, some_prompt
from torch import Tensor

from llmapi.engine.engine import Engine
from llmapi.engine.native import library
from llmapi.engine.native.library import GROUP, KINDS, NativeUnavailable, product
from llmapi.engine.sequence import Sequence
from llmapi.engine.source import LoadError
from llmapi.engine.step import Chunk

VARIANTS = {
    "this CPU": (),
    "any x86-64": ("-march=x86-64", "-O1"),
    "the layout for AVX-512 VNNI": ("-DLANES=16", "-DSTEP=4", "-O1"),
}


@pytest.fixture(scope="module", params=VARIANTS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if flags := VARIANTS[request.param]:
        target = tmp_path_factory.mktemp("native") / "variant.so"
        library.compile_to(target, ["gcc"], (*library.FLAGS, *flags))
        return library.opened(target)
    return library.load(tmp_path_factory.mktemp("native"))


def in_groups(x: Tensor) -> Tensor:
    """`[rows, groups, GROUP]`, zeros at the end."""
    return torch.nn.functional.pad(x, (0, -x.shape[1] % GROUP)).view(x.shape[0], -1, GROUP)


def int8_product(x: Tensor, weight: Tensor) -> Tensor:
    """What int8 means here, in float64: codes of -127..127 with a scale per row and group."""
    rows, columns = in_groups(x).double(), in_groups(weight).double()
    scale = (rows.abs().amax(-1) / 127).clamp_min(1e-30)
    codes = torch.sign(rows) * torch.floor((rows / scale[..., None]).abs() + 0.5)
    exact = columns.abs().amax(-1).float() / 127
    bits = exact.view(torch.int32) + 0xFFFF  # the next bfloat16 above
    step = (bits & -0x10000).view(torch.float32).double().clamp_min(1e-30)
    weights = torch.round(columns / step[..., None])
    sums = torch.einsum("rgk,cgk->rcg", codes, weights)
    return (sums * scale[:, None] * step[None]).sum(-1)


@pytest.mark.parametrize(
    "shape", [(1, 32, 16), (5, 64, 48), (13, 96, 20), (200, 33, 17), (7, 1, 1)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_product_is_what_it_says(
    built: ctypes.CDLL, kind: str, shape: tuple[int, int, int]
) -> None:
    rows, width, outputs = shape
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, width, generator=generator)
    weight = torch.randn(outputs, width, generator=generator)
    ours = product(built, kind, x, weight).double()
    if kind == "int8":
        expected = int8_product(x, weight)
    else:
        expected = x.double() @ weight.to(getattr(torch, kind)).double().T
    # A code that lies on the edge between two may fall to the other side: one step of one product.
    assert (ours - expected).abs().max() < 1e-5 * width + (2e-2 if kind == "int8" else 0)
    assert (ours - expected).abs().median() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_the_same_bit_for_bit_in_any_company(built: ctypes.CDLL, kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(120, 80, generator=generator)
    weight = torch.randn(50, 80, generator=generator)
    together = product(built, kind, x, weight)
    for count in (1, 2, 3, 5, 6, 7, 11, 12, 13, 97):
        assert torch.equal(product(built, kind, x[:count].contiguous(), weight), together[:count])


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
@pytest.mark.parametrize("kind", KINDS)
def test_broken_numbers_stay_broken_and_in_their_row(
    built: ctypes.CDLL, kind: str, broken: float
) -> None:
    x = torch.ones(9, 64)
    x[4, 33] = broken
    out = product(built, kind, x, torch.ones(16, 64))
    assert not out[4].isfinite().any()
    assert out[[0, 1, 2, 3, 5, 6, 7, 8]].isfinite().all()


def sequence_of(engine: Engine, tokens: list[int], first_block: int) -> Sequence:
    blocks = -(-len(tokens) // engine.runner.cache.block_size)
    sequence = Sequence("", 0, "", len(tokens), tokens, None)
    sequence.blocks = list(range(first_block, first_block + blocks))
    return sequence


@pytest.mark.parametrize("values", [{}, {"load_in_8bit": True}, {"dtype": "bfloat16"}])
def test_neither_chunks_nor_neighbours_change_a_bit(
    tiny_dir: Path, values: dict[str, object]
) -> None:
    engine = make_engine(tiny_dir, decoder="native", step_tokens=512, **values)
    forward = engine.runner.network.forward
    alone = sequence_of(engine, some_prompt(1, 300), 1)
    whole = forward([Chunk(alone, 0, 300)])[0]
    other = sequence_of(engine, some_prompt(2, 200), 100)
    same = sequence_of(engine, some_prompt(1, 300), 200)
    parts = []
    for start, count, beside in (
        (0, 1, 7),
        (1, 128, 50),
        (129, 13, 1),
        (142, 157, 90),
        (299, 1, 0),
    ):
        company = [Chunk(other, 0, beside)] if beside else []
        parts.append(forward([*company, Chunk(same, start, count)])[-1])
    assert torch.equal(torch.cat(parts), whole)


def test_a_greedy_text_in_8_bits_is_the_same_alone_and_in_company(tiny_dir: Path) -> None:
    engine = make_engine(tiny_dir, load_in_8bit=True)
    requests = [ask(f"r{i}", some_prompt(i, 5 + 9 * i), max_tokens=30) for i in range(6)]
    together = drive(engine, *requests)
    for i, request in enumerate(requests):
        assert drive(engine, request).text(f"r{i}") == together.text(f"r{i}")


def test_the_way_it_is_computed_is_told(tiny_dir: Path) -> None:
    assert make_engine(tiny_dir).runner.network.name == "native decoder, float32 weights"
    eight = make_engine(tiny_dir, load_in_8bit=True)
    assert eight.runner.network.name == "native decoder, int8 weights"


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(*args: object) -> None:
        raise NativeUnavailable("there is no C compiler (install gcc)")

    monkeypatch.setattr(library, "load", unavailable)


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_torch_does_it(tiny_dir: Path) -> None:
    assert make_engine(tiny_dir).runner.network.name == "fused decoder"
    with pytest.raises(LoadError, match=r"load_in_8bit.*install gcc"):
        make_engine(tiny_dir, load_in_8bit=True)
    with pytest.raises(LoadError, match=r"native decoder cannot.*install gcc"):
        make_engine(tiny_dir, decoder="native")


def test_a_compiler_that_fails_is_no_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "_loaded", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for compiler, why in (("false", "refused"), (str(tmp_path / "none"), "cannot be")):
        monkeypatch.setenv("CC", compiler)
        with pytest.raises(NativeUnavailable, match=why):
            library.load(tmp_path)
    assert not list(tmp_path.rglob("*.so"))


def test_a_library_that_computes_wrong_numbers_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "_loaded", None)
    monkeypatch.setattr(library, "product", lambda *args: torch.zeros(25, 40))
    with pytest.raises(NativeUnavailable, match="wrong numbers"):
        library.load(tmp_path)


def test_4_bits_need_a_gpu(tiny_dir: Path) -> None:
    with pytest.raises(LoadError, match="load_in_4bit"):
        make_engine(tiny_dir, load_in_4bit=True, device="cpu")
