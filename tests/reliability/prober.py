"""Asks one path at a steady rate, each time on a new connection, and tells what it got.

    python -m tests.reliability.prober URL PATH COUNT PER_S

A process of its own, so that nothing else that is done for a measurement delays it. Prints a JSON
list of [status, milliseconds].
"""

import http.client
import json
import subprocess
import sys
import time
from urllib.parse import urlsplit

from tests.serve.server import PROJECT_DIR

Probe = tuple[int, float]
"""Status and milliseconds; 0: nobody answered."""


def main() -> None:
    url, path, count, per_s = sys.argv[1:]
    found, began = [], time.monotonic()
    for number in range(int(count)):
        time.sleep(max(began + number / float(per_s) - time.monotonic(), 0))
        found.append(probe(url, path))
    json.dump(found, sys.stdout)


def probe(url: str, path: str, timeout_s: float = 60) -> Probe:
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=timeout_s)
    began = time.monotonic()
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        status = answer.status
    except OSError:
        status = 0
    finally:
        connection.close()
    return status, (time.monotonic() - began) * 1000


class Prober:
    """Such a process, under way."""

    def __init__(self, url: str, path: str, count: int, per_s: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.prober", url, path, str(count), str(per_s)],
            cwd=PROJECT_DIR,
            stdout=subprocess.PIPE,
            text=True,
        )

    def result(self) -> list[Probe]:
        out, _ = self._process.communicate()
        assert self._process.returncode == 0, "the prober failed"
        return [(status, ms) for status, ms in json.loads(out)]


if __name__ == "__main__":
    main()
