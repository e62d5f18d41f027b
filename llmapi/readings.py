"""What /metrics looks at when it is asked: engines, queues, the limits' store. It asks no database
and waits for nobody."""

import os
import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from django.conf import settings
from prometheus_client import ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from accounts.limits.limiter import limiter
from conversations.processes.journal import journal, set_aside_bytes
from conversations.processes.registration import ProcessRegistration
from llmapi.engine.messages import BATCH_SIZES, Figures
from llmapi.metrics import cumulated, registry
from llmapi.pending import pending
from llmapi.running import running
from llmapi.services import models

PACKAGES = ("Django", "daphne", "torch", "transformers")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
BY_MODEL = ["model"]

Read = Callable[[Figures], float]

GAUGES: tuple[tuple[str, str, Read], ...] = (
    (
        "llmapi_running_sequences",
        "Texts that the engine is making or reading at present.",
        lambda figures: figures.running,
    ),
    (
        "llmapi_waiting_sequences",
        "Texts that wait for their first step.",
        lambda figures: figures.waiting,
    ),
    (
        "llmapi_kv_cache_tokens",
        "Places of the key/value cache.",
        lambda figures: figures.cache_tokens,
    ),
    (
        "llmapi_kv_cache_held_tokens",
        "Places of the key/value cache that running texts hold.",
        lambda figures: figures.held_tokens,
    ),
    (
        "llmapi_kv_cache_reusable_tokens",
        "Places of the key/value cache that nobody holds, kept for texts with the same beginning.",
        lambda figures: figures.reusable_tokens,
    ),
)
SUMS: tuple[tuple[str, str, Read], ...] = (
    ("llmapi_engine_steps", "Forward passes.", lambda figures: figures.steps),
    (
        "llmapi_engine_step_seconds",
        "What forward passes took, with all that belongs to a step.",
        lambda figures: figures.steps_s,
    ),
    (
        "llmapi_engine_prompt_tokens",
        "Tokens of prompts that were computed, as they are.",
        lambda figures: figures.prompt_tokens,
    ),
    (
        "llmapi_engine_drawn_tokens",
        "Tokens of answers, as they come.",
        lambda figures: figures.drawn_tokens,
    ),
    (
        "llmapi_preemptions",
        "Texts that had to yield for want of cache, to be computed again.",
        lambda figures: figures.preemptions,
    ),
    (
        "llmapi_prefix_cache_asked_tokens",
        "Tokens of the prompts that were begun.",
        lambda figures: figures.begun_tokens,
    ),
    (
        "llmapi_prefix_cache_hit_tokens",
        "Tokens of the prompts that were begun, found in the prefix cache.",
        lambda figures: figures.cached_tokens,
    ),
)


@dataclass
class Watched:
    """What `serve` makes, and tests mostly do without."""

    registration: ProcessRegistration | None = None


watched = Watched()


class ServerReadings(Collector):
    """Of the web process."""

    def collect(self) -> Iterable[Metric]:
        yield InfoMetricFamily("llmapi_build", "What runs here.", build())
        yield GaugeMetricFamily(
            "llmapi_requests_in_flight",
            "Chats, completions and embeddings that are worked on, or wait for it.",
            len(pending),
        )
        yield GaugeMetricFamily(
            "llmapi_requests_in_flight_limit",
            "LLMAPI_MAX_PENDING: past it, 503.",
            settings.LLMAPI.max_pending,
        )
        yield GaugeMetricFamily(
            "llmapi_draining",
            "1: the server was told to end, and refuses new requests.",
            running.draining,
        )
        yield gauge_if(
            "llmapi_database_up",
            "Whether the last heartbeat, one a second, was written.",
            None if watched.registration is None else not watched.registration.is_failing,
        )
        yield gauge_if(
            "llmapi_limits_store_up",
            "Whether Redis answered when a limit was last asked for; no figure without REDIS_URL.",
            limiter.shared_is_up,
        )
        yield GaugeMetricFamily(
            "llmapi_journal_entries",
            "Ends of requests that wait on this machine's disk for the database to answer again.",
            journal.length,
        )
        yield GaugeMetricFamily(
            "llmapi_journal_set_aside_bytes",
            "Lines of journals that the database will never take, for an operator to look at.",
            set_aside_bytes(),
        )


def gauge_if(name: str, about: str, value: bool | None) -> GaugeMetricFamily:
    """One that has no figure where there is nothing to look at."""
    family = GaugeMetricFamily(name, about)
    if value is not None:
        family.add_metric([], value)
    return family


class EngineReadings(Collector):
    """Of the engines, by the model that they serve. What an engine counts begins at 0 with each
    new one."""

    def collect(self) -> Iterable[Metric]:
        up = GaugeMetricFamily(
            "llmapi_engine_up",
            "Whether the model can be asked: loaded, and its engine alive.",
            labels=BY_MODEL,
        )
        restarts = CounterMetricFamily(
            "llmapi_engine_restarts", "Engines that were started after the first.", labels=BY_MODEL
        )
        memory = GaugeMetricFamily(
            "llmapi_engine_resident_memory_bytes",
            "Memory of the engine's process, its weights among it if they are on the CPU.",
            labels=BY_MODEL,
        )
        told: dict[str, Figures] = {}
        for backend in models.backends:
            name, state = backend.name, backend.engine_state
            up.add_metric([name], backend.unavailable is None)
            if state is None:
                continue
            restarts.add_metric([name], state.restarts)
            if resident := resident_bytes(state.pid):
                memory.add_metric([name], resident)
            if state.figures is not None:
                told[name] = state.figures
        yield from (up, restarts, memory)
        yield from families(told)


def families(told: Mapping[str, Figures]) -> Iterable[Metric]:
    """`GAUGES`, `SUMS` and the sizes of batches, of each model."""
    kinds = ((GAUGES, GaugeMetricFamily), (SUMS, CounterMetricFamily))
    for table, kind in kinds:
        for name, about, read in table:
            family = kind(name, about, labels=BY_MODEL)
            for model, figures in told.items():
                family.add_metric([model], read(figures))
            yield family
    batches = HistogramMetricFamily(
        "llmapi_batch_size", "Texts in one forward pass.", labels=BY_MODEL
    )
    for model, figures in told.items():
        buckets = cumulated(BATCH_SIZES, figures.batch_sizes)
        batches.add_metric([model], buckets, figures.batched)
    yield batches


@dataclass(frozen=True)
class Described:
    name: str
    """As Prometheus stores it; of a histogram without `_bucket`, `_sum` and `_count`."""

    kind: str
    labels: tuple[str, ...]
    about: str


def metrics_described() -> Iterable[Described]:
    """All that /metrics has, whether or not there are figures at present."""
    # Which labels a metric has, the library tells nobody as long as it has no figures.
    collectors: Any = registry._collector_to_names
    for collector in collectors:
        for family in collector.collect():
            labels = getattr(collector, "_labelnames", getattr(family, "_labelnames", ()))
            total = {"counter": "_total", "info": "_info"}.get(family.type, "")
            yield Described(family.name + total, family.type, tuple(labels), family.documentation)


def resident_bytes(pid: int | None) -> int:
    """0: there is no such process, or no way to ask."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES if pid else 0
    except OSError:
        return 0


def build() -> dict[str, str]:
    facts: dict[str, str] = {
        "version": str(settings.SPECTACULAR_SETTINGS["VERSION"]),
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            facts[package.lower()] = version(package)
        except PackageNotFoundError:
            continue
    return facts


registry.register(ServerReadings())
registry.register(EngineReadings())
ProcessCollector(registry=registry)
