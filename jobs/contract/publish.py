"""Publishing: files are staged beside the folder, fsynced, renamed into place, and `_SUCCESS.json` is written last.

Two ways, one rule. A training folder is filled in place: it already holds live metrics and checkpoints, and does not
count until its manifest stands. A data folder is exchanged whole, since readers use the old set until the new one is
complete: a journal beside it says what is being exchanged, and the next writer that comes finishes or undoes an
exchange that a crash cut short.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from jobs.contract.errors import AiosError, BadConfig, UpstreamMissing
from jobs.contract.files import fsync_path, make_folder, remove_tree, replace, write_atomic
from jobs.contract.lock import FolderLock
from jobs.contract.manifest import (
    MANIFEST_NAME,
    Manifest,
    describe_files,
    journal_path,
    read_manifest,
    verify,
)


def attempt_id() -> str:
    """Identify this attempt: what the supervisor set, or a fresh id when a person runs the command."""
    return os.environ.get("AIOS_ATTEMPT_ID") or uuid.uuid4().hex


def already_published(
    folder: Path, *, inputs: dict[str, str], config: dict[str, Any], overwrite: bool
) -> Manifest | None:
    """Return the manifest when `folder` already holds exactly this result, so that the step can be skipped.

    Raises:
        BadConfig: it holds a finished result of other inputs or settings and `overwrite` is off.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    if manifest.matches(inputs, config):
        try:
            return verify(folder)
        except UpstreamMissing:
            if overwrite:
                return None
            raise
    if overwrite:
        return None
    changed = sorted(
        {k for k in inputs.keys() | manifest.inputs.keys() if inputs.get(k) != manifest.inputs.get(k)}
        | {k for k in config.keys() | manifest.config.keys() if config.get(k) != manifest.config.get(k)}
    )
    raise BadConfig(
        f"{folder} already holds a finished result made with other settings ({', '.join(changed)})",
        next_step="choose another output folder, or --overwrite to replace it",
    )


@contextlib.contextmanager
def staging(folder: Path, lock: FolderLock) -> Iterator[Path]:
    """Yield an empty folder beside `folder`, on the same file system; gone at the end unless published."""
    path = folder.with_name(f".{folder.name}.staging-{lock.owner.token[:12]}")
    _sweep_staging(folder)
    make_folder(path)
    try:
        yield path
    finally:
        if not _journal_names(folder, path):
            remove_tree(path)


def publish_into(folder: Path, staged: Path, manifest: Manifest, lock: FolderLock) -> Manifest:
    """Move the staged files into `folder`, which keeps what else it holds, and write the manifest last.

    Returns the manifest as written, with the list of files filled in.
    """
    manifest = _complete(manifest, staged)
    _settle(staged)
    lock.check()
    (folder / MANIFEST_NAME).unlink(missing_ok=True)
    for entry in manifest.files:
        target = folder / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        replace(staged / entry.path, target)
    for directory in {(folder / entry.path).parent for entry in manifest.files} | {folder}:
        fsync_path(directory)
    lock.check()
    write_atomic(folder / MANIFEST_NAME, manifest.to_bytes())
    return manifest


def publish_whole(
    folder: Path, staged: Path, manifest: Manifest, lock: FolderLock, *, hashes: Mapping[str, str] | None = None
) -> Manifest:
    """Exchange `folder` for the staged one: a reader gets the old set, the new set or `BeingReplaced`.

    `hashes` are the sha256 of staged files that the caller knows already.
    """
    manifest = _complete(manifest, staged, hashes)
    write_atomic(staged / MANIFEST_NAME, manifest.to_bytes())
    _settle(staged)
    lock.check()
    retired = folder.with_name(f".{folder.name}.retired-{lock.owner.token[:12]}")
    journal = {"staged": staged.name, "retired": retired.name}
    write_atomic(journal_path(folder), orjson.dumps(journal))
    if folder.exists():
        _rename_folder(folder, retired)
    _rename_folder(staged, folder)
    fsync_path(folder.parent)
    remove_tree(retired)
    journal_path(folder).unlink()
    return manifest


def recover(folder: Path, lock: FolderLock) -> None:
    """Finish or undo an exchange that a crash cut short. The caller holds the folder's lock."""
    lock.check()
    path = journal_path(folder)
    try:
        journal = orjson.loads(path.read_bytes())
        staged, retired = (folder.with_name(Path(journal[key]).name) for key in ("staged", "retired"))
    except FileNotFoundError:
        return
    except (orjson.JSONDecodeError, KeyError, TypeError) as exc:
        raise AiosError(
            f"{path} is damaged ({exc})", next_step="look at the folders beside it, then delete it"
        ) from exc
    if not folder.exists():
        # The journal is written only once the staged folder is complete, so forward is safe; back is the fallback.
        _rename_folder(staged if (staged / MANIFEST_NAME).exists() else retired, folder)
    fsync_path(folder.parent)
    if read_manifest(folder) is not None:
        remove_tree(retired)
    remove_tree(staged)
    path.unlink()


def retire(folder: Path, lock: FolderLock, keep: frozenset[str] = frozenset()) -> None:
    """Empty a folder that is about to be made anew; the manifest goes first, so it stops counting at once."""
    lock.check()
    (folder / MANIFEST_NAME).unlink(missing_ok=True)
    for path in list(folder.iterdir()) if folder.exists() else []:
        if path.name not in keep:
            remove_tree(path) if path.is_dir() else path.unlink()


def _complete(manifest: Manifest, staged: Path, hashes: Mapping[str, str] | None = None) -> Manifest:
    return Manifest(
        step=manifest.step,
        attempt=manifest.attempt,
        inputs=manifest.inputs,
        config=manifest.config,
        files=describe_files(staged, hashes),
        versions=manifest.versions,
        created=manifest.created,
    )


def _settle(folder: Path) -> None:
    """Force all files to disk, readable for others of the volume: safetensors creates its files for the owner only."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~mask)
        fsync_path(path)
    fsync_path(folder)


def _rename_folder(source: Path, target: Path) -> None:
    try:
        replace(source, target)
    except PermissionError as exc:  # Windows: a reader has a file of the folder open
        raise AiosError(
            f"{source} is in use by another program ({exc})", next_step="close it and run this again"
        ) from exc


def _journal_names(folder: Path, staged: Path) -> bool:
    with contextlib.suppress(FileNotFoundError, orjson.JSONDecodeError):
        return bool(orjson.loads(journal_path(folder).read_bytes()).get("staged") == staged.name)
    return False


def _sweep_staging(folder: Path) -> None:
    """Remove what a dead writer left; the caller holds the lock, so nobody alive owns it."""
    for path in folder.parent.glob(f".{folder.name}.staging-*"):
        if not _journal_names(folder, path):
            remove_tree(path)
    for name in (f"{folder.name}.lock", f"{folder.name}.replacing.json"):  # half of an atomic write
        for path in folder.parent.glob(f"..{name}.*.tmp"):
            path.unlink(missing_ok=True)
