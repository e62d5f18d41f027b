"""What this machine has to give: memory for weights and for the key/value cache, cores for the
threads.

Knows no torch unless it is asked about a GPU, so that it can be asked before anything slow begins.
"""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from llmapi.engine.cache import CacheShape

GIB = 2**30
CPU_SHARE, CPU_LIMIT = 0.25, 4 * GIB
"""Of what is free now, and at most: the web process, the database and the user's own programs live
here too."""
GPU_SHARE = 0.85

_CGROUP = Path("/sys/fs/cgroup")
_DEV = Path("/dev")
_GPU_DEVICES = ("nvidia*", "dxg", "kfd", "nvhost*", "nvgpu*")
"""What drivers put there: NVIDIA's, Windows' for its Linux, AMD's, NVIDIA's of small boards."""


def cache_tokens(shape: "CacheShape", devices: Sequence["torch.device"], *, most: int) -> int:
    """Positions that fit the memory set aside for them, `most` at most. `devices`: where each
    layer's are."""
    if devices[0].type == "cuda":
        # What fits one GPU's share of the layers; the tightest of them tells.
        shares = {device: len(devices) / devices.count(device) for device in devices}
        budget = min(int(free_on(device) * GPU_SHARE * n) for device, n in shares.items())
    else:
        budget = min(int(available_bytes() * CPU_SHARE), CPU_LIMIT)
    return min(most, budget // shape.bytes_per_token)


def why_no_gpu() -> str | None:
    """Why torch cannot see a GPU here, in a few words and without the seconds that asking torch
    takes; None: it may see one."""
    try:
        build = version("torch")
    except PackageNotFoundError:
        build = ""
    if build.endswith("+cpu"):
        return f"this torch ({build}) is built for CPUs alone"
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides all that there are"
    if sys.platform == "darwin":
        return "there is no CUDA on a Mac"
    if sys.platform == "linux" and not any(next(_DEV.glob(n), None) for n in _GPU_DEVICES):
        return "/dev has no device of a GPU's driver"
    return None


def free_on(device: "torch.device") -> int:
    """Free memory of a GPU, in bytes."""
    import torch

    return int(torch.cuda.mem_get_info(device)[0])


def available_bytes() -> int:
    """Memory that can be had without swapping, the container's limit respected; 4 GiB where nobody
    tells."""
    return min(_in_system("MemAvailable:"), _available_in_container())


def installed_bytes() -> int:
    """Memory that this machine or container has, taken or not; 4 GiB where nobody tells."""
    limit = _read_number("memory.max", "memory/memory.limit_in_bytes")
    return min(_in_system("MemTotal:"), limit)


def _read_number(*names: str) -> int:
    """The first of these files of the container that holds a number; more than any machine has
    where none does."""
    for name in names:
        try:
            return int((_CGROUP / name).read_text())  # "max" where there is no limit
        except (OSError, ValueError):
            continue
    return 2**62


def _in_system(name: str) -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return 4 * GIB


def _available_in_container() -> int:
    """What the limit leaves, the files that the kernel only keeps in case included."""
    for limit, used, files in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most = int((_CGROUP / limit).read_text())  # "max" where there is no limit
            taken = int((_CGROUP / used).read_text())
            stat = (_CGROUP / limit).with_name("memory.stat").read_text().split()
            return max(most - taken + int(stat[stat.index(files) + 1]), 0)
        except (OSError, ValueError):
            continue
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
