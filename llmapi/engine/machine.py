"""What this machine has to give: memory for the key/value cache, cores for the threads."""

import os
from pathlib import Path

import torch

from llmapi.engine.cache import CacheShape

GIB = 2**30
CPU_SHARE, CPU_LIMIT = 0.25, 4 * GIB
"""Of what is free now, and at most: the web process, the database and the user's own programs live
here too."""
GPU_SHARE = 0.85

_CGROUP = Path("/sys/fs/cgroup")


def cache_tokens(shape: CacheShape, device: torch.device, *, most: int) -> int:
    """Positions that fit the memory set aside for them, `most` at most."""
    if device.type == "cuda":
        budget = int(torch.cuda.mem_get_info(device)[0] * GPU_SHARE)
    else:
        budget = min(int(available_bytes() * CPU_SHARE), CPU_LIMIT)
    return min(most, budget // shape.bytes_per_token)


def available_bytes() -> int:
    """Memory that can be had without swapping, the container's limit respected; 4 GiB where nobody
    tells."""
    return min(_available_in_system(), _available_in_container())


def _available_in_system() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return 4 * GIB


def _available_in_container() -> int:
    try:
        limit = int((_CGROUP / "memory.max").read_text())  # "max" where there is no limit
        return max(limit - int((_CGROUP / "memory.current").read_text()), 0)
    except (OSError, ValueError):
        return 2**62


def usable_cores() -> int:
    """Cores that this process may keep busy, a container's quota respected; at least 1. With more
    threads than that, they wait for each other at every barrier."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        quota, period = (_CGROUP / "cpu.max").read_text().split()  # "max" where there is no limit
        return max(min(cores or 1, int(quota) // int(period)), 1)
    except (OSError, ValueError):
        return cores or 1
