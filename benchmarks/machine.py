"""What the machine itself allows: memory bandwidth, the rate of matrix products, and the tokens per
second that follow from them.

    python -m benchmarks.machine

A token needs every weight once, and one multiplication with each. Alone, it waits for the weights
to come from memory; in a batch, the weights come once for all and the multiplications count. Both
rates are measured here with torch, so a kernel better than torch's can pass a limit that is made of
multiplications; none can pass one that is made of bytes, as long as the weights are read from
memory and not from a cache that holds them.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.figures import markdown
from benchmarks.model import PROJECT, Shape, model_directory
from benchmarks.prompts import CHAT_TOKENS

PACKAGES = ("torch", "transformers", "numpy", "Django", "channels", "daphne")


@dataclass(frozen=True)
class Rates:
    """All with every thread that torch uses."""

    threads: int
    bytes_per_s: float
    """Read, from an array far larger than the caches."""

    fp32_flop_per_s: float
    int8_op_per_s: float | None
    """None: this torch or this machine has no int8 product."""


def best_of(times: int, action: Callable[[], object]) -> float:
    """Seconds of the fastest run: what disturbs a run makes it slower, never faster."""
    action()
    durations = []
    for _ in range(times):
        began = time.perf_counter()
        action()
        durations.append(time.perf_counter() - began)
    return min(durations)


def measured_rates(*, gigabytes: float = 1.0, repeats: int = 5) -> Rates:
    return Rates(
        torch.get_num_threads(),
        read_rate(gigabytes, repeats),
        product_rate(torch.float32, repeats),
        int8_rate(repeats),
    )


def read_rate(gigabytes: float, repeats: int) -> float:
    """The best of three ways to read an array once and write nothing."""
    floats = torch.ones(int(gigabytes * 1e9) // 4)
    matrix = floats[: floats.numel() // 4096 * 4096].view(-1, 4096)
    vector = torch.ones(4096)
    ways = (floats.sum, lambda: torch.dot(floats, floats), lambda: torch.mv(matrix, vector))
    bytes_read = floats.numel() * 4
    # dot reads the same array twice, but the second time from the cache.
    return bytes_read / min(best_of(repeats, way) for way in ways)


def product_rate(dtype: torch.dtype, repeats: int, size: int = 2048) -> float:
    a, b = (torch.ones(size, size).to(dtype) for _ in range(2))
    return 2 * size**3 / best_of(repeats, lambda: a @ b)


def int8_rate(repeats: int, rows: int = 128, size: int = 1024) -> float | None:
    """Small, since torch takes a thousand times longer where the processor has no VNNI."""
    a, b = (torch.ones(n, size, dtype=torch.int8) for n in (rows, size))
    try:
        seconds = best_of(repeats, lambda: torch._int_mm(a, b))
    except (AttributeError, RuntimeError):
        return None
    return 2 * rows * size**2 / seconds


# ---- what follows --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limit:
    """Tokens/s that no server can pass at these rates."""

    precision: str
    batch: int
    decode: float
    """Of sequences that only go on."""

    served: float
    """Of requests with their prompts, as the benchmark sends them."""


def limit(
    shape: Shape,
    precision: str,
    batch: int,
    *,
    bytes_per_s: float,
    op_per_s: float,
    bytes_per_weight: float,
    prompt_tokens: int = CHAT_TOKENS,
    new_tokens: int = 64,
) -> Limit:
    """A key/value cache in float32 is counted in, at the mean length of a sequence."""
    weights = shape.layer_weights + shape.head_weights
    cached = shape.cached_values * 4 * (prompt_tokens + new_tokens / 2)
    by_memory = (weights * bytes_per_weight + batch * cached) / bytes_per_s
    by_products = 2 * weights * batch / op_per_s
    step_s = max(by_memory, by_products)
    prompt_s = 2 * shape.layer_weights * prompt_tokens / op_per_s
    request_s = prompt_s + new_tokens * step_s / batch
    return Limit(precision, batch, batch / step_s, new_tokens / request_s)


def limits(shape: Shape, rates: Rates, batches: list[int]) -> list[Limit]:
    # Where torch's int8 products are slow, weights of one byte may be multiplied as floats.
    fastest = max(rates.fp32_flop_per_s, rates.int8_op_per_s or 0)
    kinds = [("fp32", 4.0, rates.fp32_flop_per_s), ("8-bit", 1.0, fastest)]
    return [
        limit(
            shape,
            name,
            batch,
            bytes_per_s=rates.bytes_per_s,
            op_per_s=op_per_s,
            bytes_per_weight=size,
        )
        for name, size, op_per_s in kinds
        for batch in batches
    ]


# ---- who this is ---------------------------------------------------------------------------------


def description() -> dict[str, Any]:
    """Machine, versions and date, for the files of results."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "commit": commit.stdout.strip() or None,
    }


def cpu_name() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def table(rates: Rates, rows: list[Limit]) -> str:
    int8 = "none" if rates.int8_op_per_s is None else f"{rates.int8_op_per_s / 1e9:.3g} Gop/s"
    lines = [
        f"Reads {rates.bytes_per_s / 1e9:.1f} GB/s; products {rates.fp32_flop_per_s / 1e9:.0f} "
        f"GFLOP/s in fp32, {int8} in int8 (torch, {rates.threads} threads).",
        "",
        markdown(
            ["limit", "batch", "tokens/s, going on", "tokens/s, with prompts"],
            [[row.precision, row.batch, row.decode, row.served] for row in rows],
        ),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="The machine's limits.")
    parser.add_argument("--model", type=Path, metavar="DIR")
    parser.add_argument("-b", "--batches", type=int, nargs="+", default=[1, 4, 16, 32])
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    rates = measured_rates()
    rows = limits(Shape.of(model_directory(given.model)), rates, given.batches)
    print(table(rates, rows))
    if given.json:
        result = {
            "machine": description(),
            "rates": asdict(rates),
            "limits": [asdict(row) for row in rows],
        }
        given.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
