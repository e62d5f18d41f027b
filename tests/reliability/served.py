"""The embedded model behind a real server, on all cores, as an operator would start it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.model import model_directory
from tests.serve.server import ServerUnderTest

FLAGS = os.environ.get("RELIABILITY_FLAGS", "--only_cpu").split()
"""Of the server: `--only_cpu --load_in_8bit` measures 8-bit weights."""


@contextmanager
def embedded_model_served(folder: Path, **variables: str) -> Iterator[ServerUnderTest]:
    variables = {
        "LLMAPI_THREADS": str(len(os.sched_getaffinity(0))),
        "LLMAPI_KV_CACHE_TOKENS": "65536",
        "LLMAPI_LOG_LEVEL": "WARNING",
        **variables,
    }
    server = ServerUnderTest(folder / "var", model_directory(), flags=FLAGS, **variables)
    server.start()
    try:
        server.wait_ready(300)
        yield server
    finally:
        server.end()


def model_of(server: ServerUnderTest) -> str:
    assert server.model is not None
    return server.model.name
