"""`metrics.jsonl`: one JSON object a line, append-only, one writer, flushed at once.

A resumed run continues the file: lines of steps after its checkpoint are cut, so each global step stands once.
Keys and units: docs/metrics.md.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from jobs.contract.files import write_atomic

TIME_KEYS = frozenset(
    {
        "time",
        "elapsed_s",
        "step_time_s",
        "samples_per_s",
        "tokens_per_s",
        "eval_time_s",
        "train_time_s",
        "remaining_s",
        "peak_memory_mb",
    }
)
"""Keys that differ between two otherwise equal runs."""


class MetricsWriter:
    """Appends to a `metrics.jsonl`; the only writer of it."""

    def __init__(self, path: Path, *, resume_step: int | None = None) -> None:
        """Open for a fresh run, or, with `resume_step`, drop what came after that step and go on."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [] if resume_step is None else _until(resume_step, read_metrics(path))
        write_atomic(path, b"".join(orjson.dumps(line) + b"\n" for line in kept))
        self._file = path.open("ab")

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Append one line; a value that is no finite number is written as null, since JSON has no NaN."""
        line = {"kind": kind, "step": step, "time": round(time.time(), 3)} | {k: _finite(v) for k, v in values.items()}
        self._file.write(orjson.dumps(line) + b"\n")
        self._file.flush()

    def sync(self) -> None:
        """Force the lines to disk: a checkpoint that survives a power cut needs the figures from before it."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; lines written are already on their way to disk."""
        self._file.close()


def _until(step: int, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines that a run which goes on from `step` keeps; what its end adds is written anew."""
    kept: list[dict[str, Any]] = []
    evaluated = set()
    for line in lines:
        at = line.get("step", 0)
        # A run killed between its last step and its publication has its summary, perhaps its closing evaluation too.
        if at > step or line.get("kind") == "summary" or (line.get("kind") == "eval" and at in evaluated):
            continue
        if line.get("kind") == "eval":
            evaluated.add(at)
        kept.append(line)
    return kept


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return all whole lines; a torn last line (its writer was killed) is left out."""
    return list(iter_metrics(path))


def iter_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the whole lines of a metrics file that may still be growing; nothing where it does not exist."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    for line in content.split(b"\n"):
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(row, dict):
            yield row
