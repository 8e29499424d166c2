"""Curves from metrics.jsonl: read as it grows, kept as plain numbers, thinned out for drawing.

100,000 lines become a dozen arrays of doubles (10 MB).
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from array import array
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec

from k8s.gui.files import inside
from k8s.gui.thinning import STRETCHES, Extremes


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
_CHUNK_BYTES = 1 << 20
_KEPT_FILES = 12
_NAN = math.nan
# The fields that are drawn, and no others, are decoded: four times as fast as making a dictionary of each line.
_Line = msgspec.defstruct(
    "_Line",
    [("kind", str), ("step", float), *((key, float | None, _NAN) for key in ("time", *_KEYS["train"], *_KEYS["eval"]))],
    gc=False,
)
_DECODER: Any = msgspec.json.Decoder(_Line)


class _Table:
    """The lines of one kind, as columns; a line without a value of a key holds NaN there."""

    def __init__(self, keys: list[str]) -> None:
        self.step, self.time = array("d"), array("d")
        self.columns = {key: array("d") for key in keys}
        self.counts = dict.fromkeys(keys, 0)
        self.extremes = {key: Extremes() for key in keys}

    def extend(self, lines: list[Any]) -> None:
        """Append lines, column by column."""
        self.step.extend([line.step for line in lines])
        for key, column in [("time", self.time), *self.columns.items()]:
            values = list(map(attrgetter(key), lines))
            try:
                column.extend(array("d", values))
            except TypeError:  # null: it was no finite number
                values = [_NAN if value is None else value for value in values]
                column.extend(array("d", values))
            if key in self.counts:
                self.counts[key] += len(values) - values.count(_NAN)  # found by identity: NaN equals nothing

    def indices(self, key: str, above: float) -> list[int]:
        """Return which lines to draw: those of later steps, where such are asked for; else all, thinned where many."""
        column = self.columns[key]
        if above == -math.inf and self.counts[key] > 2 * STRETCHES:
            return self.extremes[key].indices(column)
        return [i for i in range(bisect_right(self.step, above), len(column)) if not math.isnan(column[i])]


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
        self.tables = {kind: _Table(keys) for kind, keys in _KEYS.items()}

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
            whole, newline, rest = chunk.rpartition(b"\n")
            if not newline:
                self._rest += rest
                continue
            whole, self._rest = self._rest + whole, rest
            self._take(whole)
        self.version += 1

    def _take(self, text: bytes) -> None:
        lines = _decoded(text)
        for kind, table in self.tables.items():
            table.extend([line for line in lines if line.kind == kind])

    def has(self, key: str) -> bool:
        """Tell whether any line holds a number under this key."""
        return self.tables[_kind(key)].counts[key] > 0

    def points(self, key: str, axis: str = "step", last: int = 0) -> list[list[float]]:
        """Return [x, y] pairs to draw: of all steps, thinned where there are many, or all of the `last` steps."""
        with self._lock:
            wanted = (key, axis, last)
            known = self._drawn.get(wanted)
            if known is None or known[0] != self.version:
                known = (self.version, self._points(key, axis, last))
                self._drawn[wanted] = known
            return known[1]

    def _points(self, key: str, axis: str, last: int) -> list[list[float]]:
        table, trained = self.tables[_kind(key)], self.tables["train"].step
        above = trained[-1] - last if last and trained else -math.inf
        xs, ys = table.step if axis == "step" else table.time, table.columns[key]
        zero = 0.0 if axis == "step" else min((t.time[0] for t in self.tables.values() if t.time), default=0.0)
        return [[_short(xs[i] - zero), _short(ys[i])] for i in table.indices(key, above) if not math.isnan(xs[i])]


def _decoded(text: bytes) -> list[Any]:
    """Return the lines that make sense."""
    try:
        return list(_DECODER.decode_lines(text))
    except (msgspec.DecodeError, UnicodeDecodeError):
        lines = []
        for line in text.split(b"\n"):
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
                lines.append(_DECODER.decode(line))
        return lines


def _kind(key: str) -> str:
    return "eval" if key.startswith("eval_") else "train"


def _short(value: float) -> float:
    """Seven digits: more than a screen shows, half of what JSON would send."""
    return float(f"{value:.7g}")


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
