"""What is counted as it happens, for /metrics. What is looked at when somebody asks is in
`llmapi.readings`.

Labels have few values, which the server itself chooses: routes of the URLconf, codes of errors,
ids of served models. Never a user, a key, or a word of a request. Nothing is counted for each
token: a request is, when it has ended, and a piece of an answer by `Pieces`, which is cheaper than
what the library has (0.4 µs instead of 2.5).
"""

import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from django.db import Error as DatabaseError
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

disable_created_metrics()  # a second line for each, of when it was first counted
registry = CollectorRegistry()
"""All of this process; the library's own would take in whatever else may use it."""

REQUEST_S = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
FIRST_TOKEN_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 2, 3.5, 5, 10, 20, 40, 80)
PIECE_S = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.5, 1, 2.5)
DATABASE_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

requests = Counter(
    "llmapi_requests",
    "Requests that have ended. outcome: completed, cancelled (the client left), interrupted (the "
    "end of the server or the engine), failed, refused (not accepted), replayed (an earlier answer "
    "was sent again). status: 2xx and so on; none if the client left before there was one.",
    ["method", "route", "status", "outcome"],
    registry=registry,
)
request_s = Histogram(
    "llmapi_request_duration_seconds",
    "From the first byte of a request to the last of its answer; of Django's views to the first.",
    ["route"],
    buckets=REQUEST_S,
    registry=registry,
)
errors = Counter(
    "llmapi_errors",
    "Answers, and events in streams, that are OpenAI's error envelope.",
    ["status", "code"],
    registry=registry,
)
refusals = Counter(
    "llmapi_refusals",
    "429 and 503: what was refused for now, and for what reason.",
    ["status", "reason"],
    registry=registry,
)
first_token_s = Histogram(
    "llmapi_time_to_first_token_seconds",
    "From the complete body of a request to the first token of its answer.",
    ["route"],
    buckets=FIRST_TOKEN_S,
    registry=registry,
)
admission_s = Histogram(
    "llmapi_admission_seconds",
    "Of accepted requests: from the complete body to the committed row (key, template, tokens, "
    "limits, and the wait for a thread).",
    ["route"],
    buckets=DATABASE_S,
    registry=registry,
)
end_write_s = Histogram(
    "llmapi_end_write_seconds",
    "To write the end of a request, the wait for a thread and all tries together.",
    buckets=DATABASE_S,
    registry=registry,
)
prompt_tokens = Counter(
    "llmapi_prompt_tokens",
    "Tokens of prompts and inputs, of requests that have ended.",
    ["model"],
    registry=registry,
)
cached_tokens = Counter(
    "llmapi_cached_prompt_tokens",
    "Tokens of prompts that the prefix cache had, of requests that have ended.",
    ["model"],
    registry=registry,
)
completion_tokens = Counter(
    "llmapi_completion_tokens",
    "Tokens of answers, of requests that have ended.",
    ["model"],
    registry=registry,
)
database_errors = Counter(
    "llmapi_database_errors",
    "Errors of the database. where: admission, database (ends and partial texts), views.",
    ["where"],
    registry=registry,
)
views_in_flight = Gauge(
    "llmapi_views_in_flight",
    "Requests that Django's views work on. line: views (LLMAPI_MAX_VIEWS at most), ready, metrics.",
    ["line"],
    registry=registry,
)
views_waiting = Gauge(
    "llmapi_views_waiting",
    "Requests that wait for such a place, by line.",
    ["line"],
    registry=registry,
)
connections = Gauge("llmapi_connections", "Open connections of clients.", registry=registry)


def status_class(status: int | None) -> str:
    return "none" if status is None else f"{status // 100}xx"


def error_sent(status: int, code: str | None, kind: str = "") -> None:
    """An error goes out to a client. `kind`: its `error_type`, which says of a rate limit what is
    limited."""
    errors.labels(str(status), code or "none").inc()
    if status in (429, 503):
        reason = f"{kind}_limit" if code == "rate_limit_exceeded" else code
        refusals.labels(str(status), reason or "none").inc()


def failed_in(where: str, error: BaseException | None) -> None:
    """An error has left a thread, or a view; it counts if it is one of the database."""
    if isinstance(error, DatabaseError):
        database_errors.labels(where).inc()


class PieceHistogram(Collector):
    """Seconds between the pieces of answers. Owned by the event loop, so it needs no lock."""

    def __init__(self, name: str, about: str, bounds: Sequence[float]) -> None:
        self._name, self._about, self._bounds = name, about, bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def collect(self) -> Iterable[Metric]:
        buckets = cumulated(self._bounds, self._counts)
        yield HistogramMetricFamily(self._name, self._about, buckets, self._sum)


def cumulated(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """The buckets of a histogram. `counts`: of each alone, the last for all above the bounds."""
    names = [floatToGoString(bound) for bound in (*bounds, float("inf"))]
    return list(zip(names, map(float, accumulate(counts)), strict=True))


piece_s = PieceHistogram(
    "llmapi_inter_token_seconds",
    "Between two pieces of an answer, as its client gets them. What has come together goes out "
    "together; a piece is mostly one token.",
    PIECE_S,
)
registry.register(piece_s)


class Pieces:
    """Of one answer: when its last piece came."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: float | None = None

    def come(self) -> None:
        now = time.monotonic()
        if self._last is not None:
            piece_s.observe(now - self._last)
        self._last = now
