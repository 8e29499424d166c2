"""Whether a step gets on: what it writes, against how long its steps take; and where its threads stand if not."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from jobs.contract.metrics import read_metrics

AFTER_S = 600.0
"""No step is called hung before this long without a sign of life."""
_FACTOR = 3.0
_DUMP_S = 1.0
_RECENT = 50


class Watchdog:
    """Looks at metrics, checkpoints and output of a step. Hung: nothing of them moved for 3 times the median step.

    A step without step times (ingestion, loading, a long evaluation) gets three times as long.
    """

    def __init__(self, output: Path | None, log: Path, after_s: float | None = None) -> None:
        self.output, self.log = output, log
        self.after_s = float(os.environ.get("AIOS_HANG_AFTER_S", AFTER_S)) if after_s is None else after_s
        self.hung = ""
        self._seen: object = None
        self._since = time.monotonic()

    def look(self) -> bool:
        """Look once; tells whether `hung` has changed: it says how long and against what, or '' again."""
        seen, now = self._signs(), time.monotonic()
        if seen != self._seen:
            self._seen, self._since = seen, now
            changed, self.hung = bool(self.hung), ""
            return changed
        idle = now - self._since
        if self.hung or idle < self.after_s:
            return False
        median = self._median_step_s()
        if idle < (max(self.after_s, _FACTOR * median) if median else _FACTOR * self.after_s):
            return False
        against = f"median step {median:.1f} s" if median else "no step was finished yet"
        self.hung = f"no progress for {_span(idle)} ({against})"
        return True

    def dump(self, pid: int) -> int:
        """Have every process below `pid` write the stacks of its threads into the log; returns how many did.

        What they write is no progress.
        """
        asked = sum(_ask_for_stacks(process) for process in _tree(pid))
        if asked:
            time.sleep(_DUMP_S)
        self._seen = self._signs()
        return asked

    def _signs(self) -> object:
        paths = [self.log]
        if self.output is not None:
            paths += [self.output / "metrics.jsonl", self.output / "checkpoints", self.output]
        return [_stamp(path) for path in paths]

    def _median_step_s(self) -> float | None:
        if self.output is None:
            return None
        with contextlib.suppress(OSError):
            lines = read_metrics(self.output / "metrics.jsonl")
            times = [float(row["step_time_s"]) for row in lines if row.get("step_time_s")]
            return statistics.median(times[-_RECENT:]) if times else None
        return None


def _stamp(path: Path) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        found = path.stat()
        return found.st_size, found.st_mtime_ns
    return None


def _span(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def _tree(pid: int) -> Iterator[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        top = psutil.Process(pid)
        yield from [top, *top.children(recursive=True)]


def _ask_for_stacks(process: psutil.Process) -> bool:
    """Send SIGUSR1 to a process that has `faulthandler` listen to it; one that does not would die of it."""
    number = getattr(signal, "SIGUSR1", None)
    if number is None or not _listens(process.pid, number):
        return False
    with contextlib.suppress(psutil.Error, OSError):
        process.send_signal(number)
        return True
    return False


def _listens(pid: int, number: int) -> bool:
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False
