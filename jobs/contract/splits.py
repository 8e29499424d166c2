"""The folder of splits as its readers see it: train, eval and test from one publication, never a mixture."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from jobs.contract.errors import BeingReplaced, UpstreamMissing
from jobs.contract.manifest import Manifest, read_manifest, verify

SPLITS = ("train", "eval", "test")
REPORT_NAME = "schema_report.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """The rows of one split and, line for line, where they come from."""

    rows: list[dict[str, Any]]
    meta: list[dict[str, Any]]


def read_splits(folder: Path, names: tuple[str, ...] = SPLITS) -> tuple[Manifest, dict[str, Split]]:
    """Return the manifest of a data folder and the named splits, each checked against its hash.

    Raises:
        UpstreamMissing: the folder is not published, or a file is not the one in the manifest.
        BeingReplaced: a new set took its place while this was reading.
    """
    manifest = verify(folder, step="ingest", content=False)
    hashes = {entry.path: entry.sha256 for entry in manifest.files}
    splits = {
        name: Split(
            rows=_read(folder, manifest, hashes, f"{name}.jsonl"),
            meta=_read(folder, manifest, hashes, f"{name}.meta.jsonl"),
        )
        for name in names
    }
    return manifest, splits


def _read(folder: Path, manifest: Manifest, hashes: dict[str, str], name: str) -> list[dict[str, Any]]:
    if name not in hashes:
        raise UpstreamMissing(f"{folder} has no {name}", needed="the output of `aios data argilla-export`")
    try:
        content = (folder / name).read_bytes()
    except FileNotFoundError:
        content = b""
    if hashlib.sha256(content).hexdigest() != hashes[name]:
        if read_manifest(folder) != manifest:
            raise BeingReplaced(f"{folder} was replaced while it was read", next_step="try again")
        raise UpstreamMissing(
            f"{folder / name} is not the file that the manifest lists", next_step="ingest the export again"
        )
    return [orjson.loads(line) for line in content.split(b"\n") if line]
