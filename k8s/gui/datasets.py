"""Data sets on the volume: their report, and their rows a page at a time."""

from __future__ import annotations

import threading
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from jobs.contract.errors import AiosError, UpstreamMissing
from jobs.contract.manifest import read_manifest
from jobs.contract.splits import REPORT_NAME, SPLITS
from k8s.gui.files import inside
from k8s.values import DATASETS

DRAFT = "draft-"
"""Data sets of this name are previews of an ingestion that a person has not accepted yet."""
MAX_FOUND = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSet:
    """A published folder of splits."""

    name: str
    folder: Path
    created: float
    report: dict[str, Any]

    @property
    def draft(self) -> bool:
        """Whether it is a preview."""
        return self.name.startswith(DRAFT)

    def splits(self) -> dict[str, int]:
        """Return how many pairs each split holds."""
        given = self.report.get("splits") or {}
        counts = {name: given.get(name) for name in SPLITS}
        return {k: int(v.get("pairs", 0) if isinstance(v, dict) else v or 0) for k, v in counts.items()}

    def drops(self) -> dict[str, tuple[int, list[str]]]:
        """Return reason -> count and some ids of records, the most frequent reason first."""
        given = self.report.get("drops") or {}
        found = {
            str(reason): (int(drop["count"]), [str(own) for own in drop.get("sample_ids", [])])
            for reason, drop in given.items()
            if isinstance(drop, dict) and drop.get("count")
        }
        return dict(sorted(found.items(), key=lambda item: -item[1][0]))


def data_sets(root: Path = Path(DATASETS)) -> list[DataSet]:
    """Return the data sets of the volume, the newest first; what is no published folder is left out."""
    found = []
    for path in root.glob("*"):
        try:
            found.append(data_set(path.name, root))
        except AiosError:
            continue
    return sorted(found, key=lambda item: item.created, reverse=True)


def data_set(name: str, root: Path = Path(DATASETS)) -> DataSet:
    """Return a data set.

    Raises:
        AiosError: there is none of this name, or it is being replaced.
    """
    folder = root / name
    inside(folder)
    manifest = read_manifest(folder) if Path(name).name == name else None
    if manifest is None or manifest.step != "ingest":
        raise UpstreamMissing(f"{folder} is no published data set", next_step="ingest an export")
    try:
        report = orjson.loads(inside(folder / REPORT_NAME).read_bytes())
    except (OSError, orjson.JSONDecodeError) as exc:
        raise UpstreamMissing(f"{folder / REPORT_NAME} cannot be read", next_step="ingest the export again") from exc
    report = report if isinstance(report, dict) else {}
    return DataSet(name=name, folder=folder, created=manifest.created, report=report)


class Rows:
    """The lines of a split with random access: one number a line in memory, nothing else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: tuple[int, int, int] = (0, 0, 0)
        self._starts: array[int] = array("Q")
        self._lock = threading.Lock()

    def index(self) -> int:
        """Find where each line begins, anew when the file has been replaced; returns their number."""
        with self._lock:
            stat = inside(self.path).stat()
            stamp = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if stamp != self._stamp:
                starts, offset = array("Q"), 0
                with inside(self.path).open("rb") as file:
                    for line in file:
                        starts.append(offset)
                        offset += len(line)
                self._starts, self._stamp = starts, stamp
            return len(self._starts)

    def read(self, numbers: list[int]) -> list[tuple[int, dict[str, Any]]]:
        """Return the rows of these numbers."""
        rows = []
        with inside(self.path).open("rb") as file:
            for number in numbers:
                file.seek(self._starts[number])
                try:
                    row = orjson.loads(file.readline())
                except orjson.JSONDecodeError:
                    row = {}
                rows.append((number, row if isinstance(row, dict) else {}))
        return rows

    def search(self, word: str) -> list[int]:
        """Return the numbers of the first rows that hold the word, upper and lower case alike."""
        needle = word.lower()
        found = []
        with inside(self.path).open("rb") as file:
            for number, line in enumerate(file):
                if needle in line.decode(errors="replace").lower():
                    found.append(number)
                    if len(found) == MAX_FOUND:
                        break
        return found


def text_of(value: Any) -> str:
    """Return a prompt or an answer as text; of a chat every turn with who speaks."""
    if isinstance(value, list):
        turns = [turn for turn in value if isinstance(turn, dict)]
        if len(turns) == 1:
            return str(turns[0].get("content", ""))
        return "\n\n".join(f"{turn.get('role', '?')}: {turn.get('content', '')}" for turn in turns)
    return "" if value is None else str(value)
