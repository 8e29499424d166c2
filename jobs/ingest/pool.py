"""The same functions in this process or in several; results come in the order of the work, a bounded amount ahead."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from jobs.contract.errors import AiosError
from jobs.ingest.chunk import Chunker, Rules, UnitResult
from jobs.ingest.source import Unit

_COLLECT_AFTER = 500_000
_chunker: Chunker | None = None
"""Of a worker process: made for the first unit, kept for the next ones."""


def usable_cpus() -> int:
    """Return the CPUs that this process may use: its affinity, cut by the container's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            count = min(count, max(1, round(int(quota) / int(period))))
    return count


class Pool:
    """Workers for one ingestion, started at once; with one worker everything runs in this process."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._executor: ProcessPoolExecutor | None = None
        if workers > 1:
            self._executor = ProcessPoolExecutor(
                workers, multiprocessing.get_context(_start_method()), initializer=_start_worker
            )
            for _ in range(workers):
                self._executor.submit(os.getpid)  # a process is made for every task that finds none idle

    def __enter__(self) -> Self:
        return self

    def read_units(self, rules: Rules, units: Iterable[Unit]) -> Iterator[UnitResult]:
        """Run the first pass over all units."""
        if self._executor is None:
            with contextlib.closing(Chunker(rules, "0")) as chunker:
                yield from map(chunker.run, units)
        else:
            yield from self._ordered(_run_unit, ((rules, unit) for unit in units))

    def each(self, function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """Call a module-level function once for each tuple of arguments."""
        if self._executor is None:
            for args in arguments:
                yield function(*args)
        else:
            yield from self._ordered(function, arguments)

    def _ordered(self, function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        assert self._executor is not None
        pending: deque[Future[Any]] = deque()
        try:
            for args in arguments:
                pending.append(self._executor.submit(function, *args))
                # Two in hand for each worker keep it busy; more would only hold more input in memory.
                if len(pending) >= 2 * self.workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as exc:
            raise AiosError(
                "a worker process died, perhaps for lack of memory", next_step="try again with fewer --workers"
            ) from exc
        finally:
            for future in pending:
                future.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the workers; what is not begun yet is not begun any more."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)


def _start_method() -> str:
    """Return fork where it is safe, on Linux in a process with one thread: it saves 0.2 s, and spawn works anywhere."""
    return "fork" if sys.platform == "linux" and threading.active_count() == 1 else "spawn"


def _start_worker() -> None:
    # Ctrl-C reaches all processes of the terminal; the main one decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Lists of a million numbers and texts, and no cycles: looking for some takes a sixth of the second pass.
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """End at once when the main process is gone: a killed ingestion must not leave workers behind."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_unit(rules: Rules, unit: Unit) -> UnitResult:
    global _chunker
    if _chunker is not None and _chunker.rules != rules:
        _chunker.close()
        _chunker = None
    if _chunker is None:
        _chunker = Chunker(rules, str(os.getpid()))
    return _chunker.run(unit)
