"""Servers for whoever needs some, in a test or outside of pytest; none is left alive."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Self

from safetensors.torch import load_file, save_file

from tests.engine import tiny
from tests.serve.history import Databases
from tests.serve.server import ServerUnderTest

CONTEXT_LENGTH = 16384
"""So that a stream of the tiny model can outlast what a test does meanwhile."""


class Servers:
    """Call it for a server that is not started yet, on a database of its own; all end with it."""

    def __init__(
        self, databases: Databases, model: Path | None, folder: Callable[[], Path]
    ) -> None:
        """`model`: for those that name none. `folder()`: a new one for each var directory."""
        self.databases = databases
        self.model = model
        self.folder = folder
        self.made: list[ServerUnderTest] = []

    def __call__(self, var_dir: Path | None = None, **options: object) -> ServerUnderTest:
        """`options` are those of `ServerUnderTest`."""
        options.setdefault("model", self.model)
        if "database_url" not in options:
            options["database_url"] = self.databases.new()
        server = ServerUnderTest(var_dir or self.folder() / "var", **options)
        self.made.append(server)
        return server

    def beside(self, other: ServerUnderTest, **options: object) -> ServerUnderTest:
        """One more on the same database."""
        return self(other.var_dir, database_url=other.database_url, **options)

    def end(self) -> None:
        for server in self.made:
            server.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def write_nonsense(directory: Path) -> Path:
    """A tiny model that writes nonsense, and never ends by itself when it is greedy."""
    tiny.write_random(directory, max_position_embeddings=CONTEXT_LENGTH)
    weights = load_file(directory / "model.safetensors")
    # Logits of 0 for what ends a text: some other of 400 tokens always has more.
    weights["lm_head.weight"][: len(tiny.SPECIAL)] = 0
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def unique_name(purpose: str) -> str:
    """For databases: no two runs share one."""
    return f"test_llmapi_{purpose}_{os.getpid()}_{os.urandom(3).hex()}"
