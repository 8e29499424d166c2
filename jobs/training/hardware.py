"""What this machine is good at: how many threads it really has, and in which precision it multiplies fast."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from pathlib import Path
from typing import Any

import psutil

from jobs.contract.errors import EnvironmentUnfit


def cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Return the CPU limit of this container in cores (cgroup v2, else v1); None where there is none."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (root / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        quota_us = int((root / "cpu/cpu.cfs_quota_us").read_text())
        return None if quota_us <= 0 else quota_us / int((root / "cpu/cpu.cfs_period_us").read_text())
    return None


def usable_cores() -> int:
    """Return the number of threads worth starting: torch counts the host's cores, not the container's share."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return max(1, min(cores, round(quota) if quota else cores))


def set_threads() -> int:
    """Give torch as many threads as this process may use, shared between the ranks of this machine."""
    import torch

    local_world = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    threads = max(1, usable_cores() // local_world)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def resolve_precision(precision: str) -> str:
    """Return fp32, bf16 or fp16 for a precision setting; auto takes bf16 where hardware multiplies it fast.

    Raises:
        EnvironmentUnfit: the precision that was asked for cannot be had here.
    """
    import torch

    cuda = torch.cuda.is_available()
    if precision == "auto":
        return "bf16" if (torch.cuda.is_bf16_supported() if cuda else _cpu_multiplies_bf16()) else "fp32"
    if precision == "fp16" and not cuda:
        raise EnvironmentUnfit("--fp16 on a machine without GPU", needed="a CUDA GPU", next_step="use --precision auto")
    if precision == "bf16" and cuda and not torch.cuda.is_bf16_supported():
        raise EnvironmentUnfit(
            f"{torch.cuda.get_device_name()} has no bf16", needed="compute capability 8.0", next_step="use --fp16"
        )
    return precision


def _cpu_multiplies_bf16() -> bool:
    """AVX512-BF16 or AMX; elsewhere torch emulates bf16 and is slower than with fp32."""
    import torch

    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


def torch_dtype(precision: str) -> Any:
    """Return torch's dtype for a resolved precision."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def describe_device() -> str:
    """Name the device that will do the work, for people."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"{_cpu_name()}, {torch.get_num_threads()} threads"


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def peak_memory_mb() -> int:
    """Return the most memory this process has held at once, in MB: the GPU's where there is one, else the host's."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated() / 1e6)
    with contextlib.suppress(ImportError):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6)
    return int(getattr(psutil.Process().memory_info(), "peak_wset", 0) / 1e6)  # Windows
