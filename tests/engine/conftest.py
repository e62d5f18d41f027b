from pathlib import Path

import pytest
import tiny
from driving import Reference, make_engine, packed_attention

from llmapi.engine import decoder
from llmapi.engine.engine import Engine


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_random(tmp_path_factory.mktemp("models") / "Tiny-Random")


@pytest.fixture(scope="session")
def reciter_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_reciter(tmp_path_factory.mktemp("models") / "Reciter")


@pytest.fixture(scope="session")
def fallback_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_byte_fallback(tmp_path_factory.mktemp("models") / "Byte-Fallback")


@pytest.fixture
def engine(tiny_dir: Path) -> Engine:
    return make_engine(tiny_dir)


@pytest.fixture(scope="session")
def reference(tiny_dir: Path) -> Reference:
    return Reference(tiny_dir)


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fused decoder computes on this CPU as it does on a GPU, but for the kernel and the
    graphs."""
    monkeypatch.setattr(decoder, "find_varlen", lambda *args: packed_attention)
