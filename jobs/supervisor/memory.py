"""What the cgroup knows about memory: peak, limit, and whether the kernel killed for want of it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_V2 = Path("/sys/fs/cgroup")
_V1 = Path("/sys/fs/cgroup/memory")


def out_of_memory() -> str:
    """Return one line when the kernel killed a process of this container for want of memory, else ''."""
    kills = _kills()
    if kills is None or not _in_container() or kills == 0:
        return ""
    limit, peak = _number(_V2 / "memory.max", _V1 / "memory.limit_in_bytes"), peak_bytes()
    return (
        f"out of memory: limit {_gib(limit)}, peak {_gib(peak)}; give the step more memory"
        " (steps.NAME.resources.limits.memory), or take a smaller batch size or length"
    )


def peak_bytes() -> int | None:
    """Return the most memory that the container has used, in bytes; None where it cannot be known."""
    return _number(_V2 / "memory.peak", _V1 / "memory.max_usage_in_bytes") if _in_container() else None


def _in_container() -> bool:
    # Only as PID 1 is the visible cgroup this step's own; elsewhere it counts the whole machine's or session's.
    return os.getpid() == 1


def _kills() -> int | None:
    for path in (_V2 / "memory.events", _V1 / "memory.oom_control"):
        with contextlib.suppress(OSError, ValueError):
            for line in path.read_text(encoding="ascii").splitlines():
                key, _, value = line.partition(" ")
                if key == "oom_kill":
                    return int(value)
    return None


def _number(*paths: Path) -> int | None:
    for path in paths:
        with contextlib.suppress(OSError, ValueError):
            return int(path.read_text(encoding="ascii"))
    return None


def _gib(value: int | None) -> str:
    return "unknown" if value is None else f"{value / 2**30:.2f} GiB"
