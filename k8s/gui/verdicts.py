"""Evaluation reports on the volume."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from jobs.contract.errors import AiosError, UpstreamMissing
from jobs.contract.manifest import read_manifest
from k8s.gui.files import inside

ROOT = Path("artifacts/evaluation")
_TONES = {"better": "good", "worse": "bad", "no difference": "warn"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """A published report."""

    name: str
    folder: Path
    created: float
    report: dict[str, Any]

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        return str((self.report.get("verdict") or {}).get("sentence") or "The report has no verdict.")

    @property
    def tone(self) -> str:
        """How to colour it."""
        return _TONES.get(str((self.report.get("verdict") or {}).get("answer")), "")

    @property
    def headline(self) -> dict[str, float]:
        """Its main numbers."""
        given = self.report.get("headline") or {}
        return {key: value for key, value in given.items() if isinstance(value, int | float)}


def verdicts() -> list[Verdict]:
    """Return the published reports, the newest first."""
    found = []
    for path in ROOT.glob("*/report.json"):
        try:
            found.append(verdict(path.parent.name))
        except AiosError:
            continue
    return sorted(found, key=lambda item: item.created, reverse=True)


def verdict(name: str) -> Verdict:
    """Return a report.

    Raises:
        UpstreamMissing: there is none of that name, or it is not published.
    """
    folder = ROOT / name
    real = inside(folder)
    manifest = read_manifest(real) if Path(name).name == name else None
    if manifest is None:
        raise UpstreamMissing(f"no published report named {name!r}", next_step="run the step `evaluation`")
    try:
        report = orjson.loads(inside(folder / "report.json").read_bytes())
    except (OSError, orjson.JSONDecodeError) as exc:
        raise UpstreamMissing(f"{folder / 'report.json'} cannot be read", next_step="evaluate again") from exc
    return Verdict(
        name=name, folder=folder, created=manifest.created, report=report if isinstance(report, dict) else {}
    )


def lines(path: Path, limit: int = 5000) -> list[dict[str, Any]]:
    """Return the first rows of a .jsonl file."""
    rows: list[dict[str, Any]] = []
    try:
        with inside(path).open("rb") as file:
            for line in file:
                row = orjson.loads(line)
                if isinstance(row, dict):
                    rows.append(row)
                if len(rows) == limit:
                    break
    except (OSError, orjson.JSONDecodeError):
        pass
    return rows
