"""What the cgroup knows about memory: peak, limit, and whether the kernel killed for want of it, and whose want."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
_NEARLY = 0.98


@dataclass(frozen=True, kw_only=True, slots=True)
class Shortage:
    """The kernel killed a process of this container."""

    cause: str
    """`memory`: the container's own limit was reached. `node_memory`: it was not, so somebody else used memory up."""
    message: str


class Memory:
    """The container's memory, since this object was made.

    Reads cgroup v2 (`memory.events`) and v1 (`memory.oom_control`, `memory.failcnt`). Only as PID 1 is the visible
    cgroup this step's own; elsewhere it counts the whole machine's or session's, and nothing is said.
    """

    def __init__(self, root: Path = CGROUP, *, own: bool | None = None) -> None:
        self.own = os.getpid() == 1 if own is None else own
        self._v2, self._v1 = root, root / "memory"
        self._before = self._kills(), self._limit_hits()

    def shortage(self) -> Shortage | None:
        """Return what the kernel did, None where it killed nobody."""
        if not self.own or self._kills() <= self._before[0]:
            return None
        limit, peak = _gib(self.limit_bytes()), _gib(self.peak_bytes())
        if self._limit_hits() > self._before[1] or self._full():
            message = (
                f"out of memory: limit {limit}, peak {peak}; give the step more memory"
                " (steps.NAME.resources.limits.memory), or take a smaller batch size or length"
            )
            return Shortage(cause="memory", message=message)
        message = (
            f"the node ran out of memory and its kernel chose this step, whose own limit ({limit}, peak {peak}) was not"
            " reached; ask for as much memory as the step uses (steps.NAME.resources.requests.memory)"
        )
        return Shortage(cause="node_memory", message=message)

    def figures(self) -> dict[str, int]:
        """Return limit, peak and what /dev/shm holds, in bytes; only what is known."""
        found = {"limit": self.limit_bytes(), "peak": self.peak_bytes(), "shm": _shm_bytes() if self.own else None}
        return {key: value for key, value in found.items() if value}

    def peak_bytes(self) -> int | None:
        """Return the most memory that the container has used; None where it cannot be known."""
        if not self.own:
            return None
        return _number(self._v2 / "memory.peak", self._v1 / "memory.max_usage_in_bytes")

    def limit_bytes(self) -> int | None:
        """Return the container's limit; None without one."""
        found = _number(self._v2 / "memory.max", self._v1 / "memory.limit_in_bytes") if self.own else None
        return found if found is not None and found < 1 << 60 else None  # v1 says 2**63 - 4096 for "none"

    def _full(self) -> bool:
        """Tell whether the peak has come to the limit; there are v1 kernels that kill without counting it."""
        limit, peak = self.limit_bytes(), self.peak_bytes()
        return limit is not None and peak is not None and peak >= _NEARLY * limit

    def _kills(self) -> int:
        return _counter("oom_kill", self._v2 / "memory.events", self._v1 / "memory.oom_control")

    def _limit_hits(self) -> int:
        return _counter("oom", self._v2 / "memory.events") + (_number(self._v1 / "memory.failcnt") or 0)


def _counter(name: str, *paths: Path) -> int:
    for path in paths:
        with contextlib.suppress(OSError, ValueError):
            for line in path.read_text(encoding="ascii").splitlines():
                key, _, value = line.partition(" ")
                if key == name:
                    return int(value)
    return 0


def _number(*paths: Path) -> int | None:
    for path in paths:
        with contextlib.suppress(OSError, ValueError):
            return int(path.read_text(encoding="ascii"))
    return None


def _shm_bytes() -> int | None:
    with contextlib.suppress(OSError, AttributeError):
        found = os.statvfs("/dev/shm")  # noqa: S108  its size is what is asked for
        return (found.f_blocks - found.f_bfree) * found.f_frsize
    return None


def _gib(value: int | None) -> str:
    return "unknown" if value is None else f"{value / 2**30:.2f} GiB"
