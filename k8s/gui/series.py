"""Curves from metrics.jsonl: read as it grows, kept as plain numbers, thinned out for drawing.

100,000 lines become ten arrays of doubles (8 MB). Each is drawn from the smallest and the largest value of 400 equal
stretches, so that no spike is lost, which an average or every n-th point would do.
"""

from __future__ import annotations

import math
import os
import threading
from array import array
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from k8s.gui.files import inside


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Chart:
    """One diagram: keys of docs/metrics.md and what to call them."""

    key: str
    title: str
    series: dict[str, str]
    """Key -> what the legend calls it."""
    unit: str = ""
    better: str = ""


CHARTS = (
    Chart(key="loss", title="Loss", series={"loss": "training", "eval_loss": "held out"}, better="lower"),
    Chart(
        key="accuracy",
        title="Accuracy",
        series={"accuracy": "training", "eval_accuracy": "held out", "eval_auc": "held-out AUC"},
        unit="share of pairs",
        better="higher",
    ),
    Chart(
        key="margin",
        title="Margin",
        series={"margin": "training", "eval_margin": "held out"},
        unit="reward of chosen minus rejected",
        better="higher",
    ),
    Chart(
        key="rewards",
        title="Rewards",
        series={"reward_chosen": "chosen", "reward_rejected": "rejected", "reward_mean": "mean"},
    ),
    Chart(
        key="logps",
        title="Log-probabilities",
        series={"logp_chosen": "chosen", "logp_rejected": "rejected"},
        unit="nats per answer",
    ),
    Chart(key="learning_rate", title="Learning rate", series={"learning_rate": "learning rate"}),
    Chart(key="speed", title="Speed", series={"tokens_per_s": "tokens/s"}, unit="tokens per second"),
    Chart(key="grad_norm", title="Gradient norm", series={"grad_norm": "before clipping"}),
)
_KEYS = {
    "train": [key for chart in CHARTS for key in chart.series if not key.startswith("eval_")],
    "eval": [key for chart in CHARTS for key in chart.series if key.startswith("eval_")],
}
_CHUNK_BYTES = 4 << 20
_KEPT_FILES = 12
BUCKETS = 400
_NAN = math.nan


@dataclass(slots=True)
class _Table:
    """The lines of one kind, as columns; a line without a value of a key holds NaN there."""

    step: array[float] = field(default_factory=lambda: array("d"))
    time: array[float] = field(default_factory=lambda: array("d"))
    columns: dict[str, array[float]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def extend(self, rows: list[dict[str, Any]]) -> None:
        """Append rows, column by column: four times as fast as row by row."""
        rows = [row for row in rows if _is_number(row.get("step"))]
        self.step.extend([row["step"] for row in rows])
        for key, column in [("time", self.time), *self.columns.items()]:
            values = [row.get(key, _NAN) for row in rows]
            try:
                column.extend(array("d", values))
            except (TypeError, OverflowError):  # null where it was no finite number, or nonsense
                values = [value if _is_number(value) else _NAN for value in values]
                column.extend(array("d", values))
            if key in self.counts:
                self.counts[key] += len(values) - values.count(_NAN)  # found by identity: NaN equals nothing


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 63)


class MetricsFile:
    """A metrics.jsonl as far as it is written. `version` changes whenever there is something new."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.version = 0
        self._lock = threading.Lock()
        self._drawn: dict[tuple[str, str, int], tuple[int, list[list[float]]]] = {}
        self._reset()

    def _reset(self) -> None:
        self._offset, self._inode, self._rest = 0, 0, b""
        self.last: dict[str, Any] = {}
        self.tables = {
            kind: _Table(columns={key: array("d") for key in keys}, counts=dict.fromkeys(keys, 0))
            for kind, keys in _KEYS.items()
        }

    def refresh(self) -> int:
        """Read what was appended; a file that was replaced (a resumed run cuts it) is read from its start."""
        with self._lock:
            try:
                with inside(self.path).open("rb") as file:
                    self._read(file)
            except OSError:
                if self._offset:
                    self._reset()
                    self.version += 1
            return self.version

    def _read(self, file: Any) -> None:
        stat = os.fstat(file.fileno())
        if stat.st_ino != self._inode or stat.st_size < self._offset:
            self._reset()
            self._inode = stat.st_ino
        if stat.st_size == self._offset:
            return
        file.seek(self._offset)
        while chunk := file.read(_CHUNK_BYTES):
            self._offset += len(chunk)
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            self._parse(lines)
        self.version += 1

    def _parse(self, lines: list[bytes]) -> None:
        found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in _KEYS}
        for line in lines:
            try:
                row = orjson.loads(line)
                kind = row["kind"]
                if kind in found:
                    found[kind].append(row)
                elif len(self.last) < 32:
                    self.last[str(kind)] = row
            except (orjson.JSONDecodeError, KeyError, TypeError):
                continue
        for kind, rows in found.items():
            self.tables[kind].extend(rows)
            if rows:
                self.last[kind] = rows[-1]

    def has(self, key: str) -> bool:
        """Tell whether any line holds a number under this key."""
        return self.tables[_kind(key)].counts[key] > 0

    def points(self, key: str, axis: str = "step", last: int = 0) -> list[list[float]]:
        """Return [x, y] pairs to draw: all there are, or extremes of equal stretches. `last` steps only where given."""
        with self._lock:
            wanted = (key, axis, last)
            known = self._drawn.get(wanted)
            if known is None or known[0] != self.version:
                known = (self.version, self._points(key, axis, last))
                self._drawn[wanted] = known
            return known[1]

    def _points(self, key: str, axis: str, last: int) -> list[list[float]]:
        table = self.tables[_kind(key)]
        ys = table.columns[key]
        xs = table.step if axis == "step" else array("d", [t - self._zero() for t in table.time])
        if last and self.tables["train"].step:
            start = self.tables["train"].step[-1] - last
            first = next((i for i, step in enumerate(table.step) if step > start), len(ys))
            xs, ys = xs[first:], ys[first:]
        if table.counts[key] < len(table.step) or (axis == "time" and math.isnan(sum(table.time))):
            there = [i for i, y in enumerate(ys) if not (math.isnan(y) or math.isnan(xs[i]))]
            xs, ys = array("d", [xs[i] for i in there]), array("d", [ys[i] for i in there])
        return [[_short(x), _short(y)] for x, y in decimate(xs, ys, BUCKETS)]

    def _zero(self) -> float:
        starts = [table.time[0] for table in self.tables.values() if table.time]
        return min(starts, default=0.0)

    @property
    def size(self) -> int:
        """How many lines of training there are."""
        return len(self.tables["train"].step)


def _kind(key: str) -> str:
    return "eval" if key.startswith("eval_") else "train"


def _short(value: float) -> float:
    """Seven digits: more than a screen shows, half of what JSON would send."""
    return float(f"{value:.7g}")


def decimate(xs: array[float], ys: array[float], buckets: int) -> list[tuple[float, float]]:
    """Return the lowest and the highest point of so many equal stretches, in their order; all points where few."""
    count = len(ys)
    if count <= 2 * buckets:
        return list(zip(xs, ys, strict=True))
    points: list[tuple[float, float]] = []
    for bucket in range(buckets):
        start, end = bucket * count // buckets, (bucket + 1) * count // buckets
        part = ys[start:end]
        picked = {start + part.index(min(part)), start + part.index(max(part))}
        if bucket == buckets - 1:
            picked.add(count - 1)  # the newest value is always there
        points += [(xs[i], ys[i]) for i in sorted(picked)]
    return points


class Library:
    """The metrics files that pages look at now; the least recently used ones are forgotten."""

    def __init__(self) -> None:
        self._files: OrderedDict[Path, MetricsFile] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, path: Path) -> MetricsFile:
        """Return the file, read so far; whoever asks calls `refresh`."""
        with self._lock:
            file = self._files.pop(path, None) or MetricsFile(path)
            self._files[path] = file
            while len(self._files) > _KEPT_FILES:
                self._files.popitem(last=False)
            return file


LIBRARY = Library()
"""The one of this server."""
