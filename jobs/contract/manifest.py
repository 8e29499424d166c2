"""`_SUCCESS.json`: the one file that makes a folder count.

It lists the size and sha256 of each final file, the hashes of what went in, the configuration and the attempt that
made it. Logs, live metrics and checkpoints are not in it. A reader verifies before it uses.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from jobs.contract.errors import BeingReplaced, UpstreamMissing
from jobs.contract.files import sha256_file, sha256_json, to_json
from jobs.contract.places import check_place

MANIFEST_NAME = "_SUCCESS.json"
NOT_FINAL = frozenset({"metrics.jsonl", "training.log", "checkpoints", "logs", "tmp", "wandb"})
"""Names inside an output folder that live on beside the published files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """One published file: its POSIX path relative to the folder, its size in bytes, its sha256."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What `_SUCCESS.json` says."""

    step: str
    attempt: str
    inputs: dict[str, str]
    config: dict[str, Any]
    files: list[FileEntry]
    versions: dict[str, str] = field(default_factory=dict)
    created: float = field(default_factory=time.time)

    def to_bytes(self) -> bytes:
        """Serialise as it stands on disk."""
        return to_json(asdict(self))

    @property
    def sha256(self) -> str:
        """Hash of the manifest as it stands on disk: the identity of this publication."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def content_sha256(self) -> str:
        """Hash of the published files alone: equal for two runs that produced the same bytes."""
        return sha256_json(sorted([f.path, f.sha256] for f in self.files))

    def matches(self, inputs: dict[str, str], config: dict[str, Any]) -> bool:
        """Tell whether this folder was made from these inputs with this configuration."""
        return self.inputs == inputs and sha256_json(self.config) == sha256_json(config)


def describe_files(folder: Path, known: Mapping[str, str] | None = None) -> list[FileEntry]:
    """List every file under `folder` as it will stand in the manifest, in path order.

    `known` has the sha256 of files that the caller hashed already, by their path in the folder.
    """
    hashes = known or {}
    entries = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST_NAME:
            relative = path.relative_to(folder).as_posix()
            entries.append(
                FileEntry(path=relative, size=path.stat().st_size, sha256=hashes.get(relative) or sha256_file(path))
            )
    return entries


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a folder; None where there is none.

    Raises:
        UpstreamMissing: the file is there but is not a manifest, or it leads out of the workspace.
    """
    path = folder / MANIFEST_NAME
    check_place(path, UpstreamMissing)
    try:
        raw = orjson.loads(path.read_bytes())
        files = [FileEntry(**entry) for entry in raw.pop("files")]
        manifest = Manifest(files=files, **raw)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (orjson.JSONDecodeError, TypeError, KeyError, AttributeError) as exc:
        raise UpstreamMissing(
            f"{path} is not a manifest ({exc})", next_step="run the step again with --overwrite"
        ) from exc
    for entry in manifest.files:
        relative = PurePosixPath(entry.path)
        if relative.is_absolute() or ".." in relative.parts:
            raise UpstreamMissing(f"{path} names a file outside its folder: {entry.path}", next_step="do not use it")
    return manifest


def verify(folder: Path, *, step: str | None = None, content: bool = True) -> Manifest:
    """Return the manifest of a published folder after comparing every file with it.

    `content=False` compares sizes only, for callers that hash what they read anyway.

    Raises:
        UpstreamMissing: nothing published here, or a file differs from the manifest.
        BeingReplaced: the folder is being exchanged right now.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise _absent(folder, step)
    if step is not None and manifest.step != step:
        raise UpstreamMissing(
            f"{folder} was made by the step '{manifest.step}'",
            needed=f"the output of '{step}'",
            next_step="check the path",
        )
    try:
        for entry in manifest.files:
            _compare(folder, entry, content)
    except (UpstreamMissing, FileNotFoundError) as exc:
        # What looks like damage is another publication when the manifest changed meanwhile.
        if journal_path(folder).exists() or read_manifest(folder) != manifest:
            raise BeingReplaced(f"{folder} is being replaced", next_step="try again in a moment") from exc
        raise
    return manifest


def _compare(folder: Path, entry: FileEntry, content: bool) -> None:
    path = folder / entry.path
    if not path.is_file():
        raise UpstreamMissing(
            f"{path} is missing although {MANIFEST_NAME} lists it", next_step="run the step again with --overwrite"
        )
    if folder.resolve() not in path.resolve().parents:
        raise UpstreamMissing(f"{path} leads out of its folder", next_step="remove the link; do not use it")
    if path.stat().st_size != entry.size or (content and sha256_file(path) != entry.sha256):
        raise UpstreamMissing(
            f"{path} is not the file that {MANIFEST_NAME} lists (size or sha256 differs)",
            next_step="run the step again with --overwrite",
        )


def _absent(folder: Path, step: str | None) -> UpstreamMissing:
    if journal_path(folder).exists() or (folder / MANIFEST_NAME).exists():  # there again: it was just exchanged
        return BeingReplaced(f"{folder} is being replaced", next_step="try again in a moment")
    command = {
        "ingest": "aios data argilla-export",
        "rm": "aios hrm-hf rm-train",
        "dpo": "aios hrm-hf dpo-train",
    }
    what = "does not exist" if not folder.exists() else f"has no {MANIFEST_NAME}: it is unfinished or not ours"
    return UpstreamMissing(
        f"{folder} {what}",
        needed="a published folder",
        next_step=f"run `{command.get(step or '', 'the step that makes it')}` first, to its end",
    )


def journal_path(folder: Path) -> Path:
    """Where the exchange of a whole folder is written down while it lasts; see `jobs.contract.publish`."""
    return folder.with_name(f".{folder.name}.replacing.json")
