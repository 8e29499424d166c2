"""Runs an ingestion in this process and returns everything it says about every record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from jobs.config.ingest import IngestConfig
from jobs.contract.splits import SPLITS, read_splits
from jobs.ingest.run import ingest

WIDE = {"min_prompt_toks": 0, "max_prompt_toks": 10**9}
"""Length bounds opened wide, as the expected counts assume."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came out."""

    report: dict[str, Any]
    rows: dict[str, list[dict[str, Any]]]
    meta: dict[str, list[dict[str, Any]]]
    drops: list[dict[str, Any]]
    folder: Path

    @property
    def counts(self) -> dict[str, int]:
        return {reason: drop["count"] for reason, drop in self.report["drops"].items()}

    @property
    def kept(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        return [pair for name in SPLITS for pair in zip(self.rows[name], self.meta[name], strict=True)]


def run(output: Path, *inputs: Path | str, **settings: Any) -> Result:
    """Ingest with wide length bounds unless told otherwise; every drop is written down."""
    chosen = WIDE | {"write_drops": True, "workers": 1} | settings
    outcome = ingest(IngestConfig(input=tuple(map(str, inputs)), output=str(output), **chosen))
    _, splits = read_splits(output)
    drops = output / "drops.jsonl"
    return Result(
        report=outcome.report,
        rows={name: split.rows for name, split in splits.items()},
        meta={name: split.meta for name, split in splits.items()},
        drops=lines(drops) if drops.exists() else [],
        folder=output,
    )


def lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines."""
    return [orjson.loads(line) for line in path.read_bytes().split(b"\n") if line]


def write_lines(path: Path, rows: list[Any]) -> Path:
    """Write a file of JSON lines."""
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path
