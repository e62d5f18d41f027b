"""A Redis of the tests' own, which they may stop and start again."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
import redis


class RedisServer:
    """Keeps nothing on the disk, so it is empty after each start."""

    def __init__(self, folder: Path, password: str = "") -> None:
        """`password`: none is asked for by default."""
        self.folder, self.password = folder, password
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        user = f":{password}@" if password else ""
        self.url = f"redis://{user}127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = shutil.which("redis-server")
        assert program is not None
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        if self.password:
            arguments += ["--requirepass", self.password]
        self.process = subprocess.Popen(
            [program, *arguments, "--dir", str(self.folder)], stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 20
        with redis.Redis.from_url(self.url) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.ConnectionError:
                    assert time.monotonic() < deadline, "redis-server does not answer"
                    time.sleep(0.02)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def why_no_redis() -> str | None:
    if shutil.which("redis-server"):
        return None
    reason = "redis-server is not installed"
    if os.environ.get("CI") == "true":
        raise pytest.UsageError(reason)
    return reason
