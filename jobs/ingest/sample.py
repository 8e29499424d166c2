"""A sample of the records, from the beginning, the middle and the end, and the settings that lie beside them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from jobs.contract.errors import BadConfig, BadData
from jobs.ingest.chunk import BadLineError, bad_line, parse_slowly
from jobs.ingest.detect import Settings
from jobs.ingest.source import Source, Unit, range_lines
from jobs.ingest.streams import read_some
from jobs.ingest.units import iter_units

_ROWS = 500
_HEAD_BYTES = 1 << 20


def sample(source: Source, scratch: Path) -> list[dict[str, Any]]:
    """Return up to a few thousand records of one source; lines that do not parse are left out here."""
    if source.shape == "parquet":
        from jobs.ingest.parquet import sample_rows

        unit = next(iter_units([source], scratch), None)
        return sample_rows(Path(unit.path), _ROWS) if unit else []
    if source.shape == "jsonl" and source.plain:
        middle, end = source.size // 2, max(source.size - _HEAD_BYTES, 0)
        starts = sorted({0, *(s for s in (middle, end) if s >= _HEAD_BYTES)})
        return [row for start in starts for row in _parsed(_range(source, start))]
    units = itertools.islice(iter_units([source], scratch), 1)
    return [row for unit in units for row in _parsed(_unit_lines(unit))]


def _range(source: Source, start: int) -> Iterator[bytes]:
    unit = Unit(index=0, path=str(source.path), shape="jsonl", start=start, end=min(start + _HEAD_BYTES, source.size))
    return (line.removeprefix(b"\xef\xbb\xbf") for line in range_lines(unit))


def _unit_lines(unit: Unit) -> list[bytes]:
    lines = unit.lines or b""
    return lines.split(b"\n") if isinstance(lines, bytes) else lines


def _parsed(lines: Iterable[bytes]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for line in lines:
        if len(rows) == _ROWS:
            break
        try:
            row = json.loads(line, object_pairs_hook=_unique)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


class RepeatedKeys(dict[str, Any]):
    """An object in which, at whatever depth, a key stood twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    repeated = len(found) < len(pairs) or any(_has_repeated(value) for value in found.values())
    return RepeatedKeys(found) if repeated else found


def _has_repeated(value: Any) -> bool:
    return isinstance(value, RepeatedKeys) or (isinstance(value, list) and any(map(_has_repeated, value)))


def sample_warnings(rows: list[dict[str, Any]]) -> tuple[str, ...]:
    """Return what is odd about the sample though it can be read."""
    repeated = sum(isinstance(row, RepeatedKeys) for row in rows)
    if not repeated:
        return ()
    return (f"in {repeated} of {len(rows)} records looked at a key stands twice; its last value counts",)


def first_bad_line(source: Source) -> BadData | None:
    """Return the error about the first line where no line of a file can be read."""
    with source.open() as stream:
        block = read_some(stream, source.path, _HEAD_BYTES).removeprefix(b"\xef\xbb\xbf")
    for number, line in enumerate(block.split(b"\n"), start=1):
        try:
            if line.strip():
                parse_slowly(line)
        except BadLineError as bad:
            return bad_line(f"{source.path}: line {number}", bad)
    return None


def read_settings(path: str | None, sources: list[Source]) -> Settings:
    """Return what `.argilla/settings.json` beside the data, or the file named, says; empty where there is none.

    Raises:
        BadConfig: the file named is not Argilla's settings.json.
    """
    if path is not None:
        try:
            return _settings(orjson.loads(Path(path).read_bytes()))
        except (orjson.JSONDecodeError, KeyError, TypeError, OSError) as exc:
            raise BadConfig(f"--settings {path}: {exc}", needed="the settings.json that Argilla writes") from exc
    for source in sources:
        beside = [folder / ".argilla" / "settings.json" for folder in (source.path.parent, source.path.parent.parent)]
        for candidate in (source.path.with_name(f"{source.path.name}.settings.json"), *beside):
            try:
                return _settings(orjson.loads(candidate.read_bytes()))
            except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
                continue
    return Settings()


def _settings(document: dict[str, Any]) -> Settings:
    questions = {q["name"]: q["settings"] for q in document["questions"]}
    return Settings(
        question_types={name: settings["type"] for name, settings in questions.items()},
        options={name: [o["value"] for o in s.get("options") or []] for name, s in questions.items()},
        fields=tuple(field["name"] for field in document["fields"]),
        question_ids=tuple((str(q["id"]), q["name"]) for q in document["questions"] if q.get("id")),
    )


def label_codes(sources: list[Source], scratch: Path) -> dict[str, list[Any]]:
    """Return the names behind integer labels, which only Parquet files keep.

    Raises:
        BadData: two files number their labels differently.
    """
    codes: dict[str, list[Any]] = {}
    for source in sources:
        if source.shape != "parquet":
            continue
        from jobs.ingest.parquet import label_names

        unit = next(iter_units([source], scratch), None)
        for name, labels in label_names(Path(unit.path)).items() if unit else ():
            if codes.setdefault(name, labels) != labels:
                raise BadData(f"{source.path} numbers the labels of {name} unlike the files before it",
                              next_step="ingest the files one by one")  # fmt: skip
    return codes
