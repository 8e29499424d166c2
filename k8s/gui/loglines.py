"""Curves from what a trainer prints, for a run whose volume is not mounted here: a point every few seconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import orjson

from jobs.contract.errors import AiosError
from k8s.gui.files import inside
from k8s.gui.series import MetricsFile
from k8s.progress import logged


def rows(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl that these lines of a log tell of, without their times."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for line in lines:
        if row := logged(line):  # of a step that was done again after a resume the last line counts
            found[row["kind"], row["step"]] = row | {"time": math.nan}
    return sorted(found.values(), key=lambda row: row["step"])


class LoggedMetrics(MetricsFile):
    """The metrics of a step: its file where there is one, else its log."""

    def __init__(self, path: Path, log: Callable[[], tuple[str, ...]]) -> None:
        super().__init__(path)
        self._log, self._said = log, tuple[str, ...]()

    def refresh(self) -> int:
        """Read what is new."""
        try:
            if inside(self.path).is_file():
                return super().refresh()
        except (AiosError, OSError):
            pass
        said = self._log()
        with self._lock:
            if said != self._said:
                self._said = said
                self._reset()
                self._take(b"\n".join(orjson.dumps(row) for row in rows(said)))
                self.version += 1
            return self.version
