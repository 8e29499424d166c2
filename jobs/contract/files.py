"""Writing files so that a reader sees the old content or the new, whatever happens in between."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import time
from pathlib import Path
from typing import Any

import orjson


def fsync_path(path: Path) -> None:
    """Force a file, or a directory's entries, onto the disk. Directories are a no-op on Windows."""
    if os.name == "nt" and path.is_dir():
        return
    fd = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomic(path: Path, content: bytes) -> None:
    """Replace `path` by `content`: written beside it, fsynced, renamed over it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        with temporary.open("xb") as file:  # exclusive: a link planted under this name is not followed
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_path(path.parent)


def write_json(path: Path, document: Any) -> None:
    """Write an indented JSON document atomically."""
    write_atomic(path, to_json(document))


def to_json(document: Any) -> bytes:
    """Serialise with sorted keys, so that equal documents are equal bytes."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS
    return orjson.dumps(document, option=options)


def replace(source: Path, target: Path) -> None:
    """`os.replace` that waits a moment on Windows, where a virus scanner or a reader may hold the file."""
    for attempt in range(20):
        try:
            source.replace(target)
        except PermissionError:
            if os.name != "nt" or attempt == 19:
                raise
            time.sleep(0.05 * (attempt + 1))
        else:
            return


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(document: Any) -> str:
    """Return the SHA-256 of a JSON document, independent of key order."""
    return hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()


def make_folder(path: Path) -> None:
    """Make a folder and those above it. Whoever may write the folder that was there may write the new ones.

    A workspace is shared: by a person and the pods' uid 10001, by a panel that root runs and the person. With the
    process's own umask alone, who came first would lock the others out of `artifacts/runs`.
    """
    absent = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(absent):
        folder.mkdir(exist_ok=True)
        above = folder.parent.stat()
        if os.name == "nt" or above.st_mode & stat.S_ISVTX:  # as in /tmp: open to all, and meant to be kept apart
            continue
        with contextlib.suppress(PermissionError):  # another one made it a moment ago
            if os.geteuid() == 0:
                os.chown(folder, above.st_uid, above.st_gid)
            folder.chmod(stat.S_IMODE(folder.stat().st_mode) | above.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def remove_tree(path: Path) -> None:
    """Delete a folder and what is in it; absent is fine. A link is removed, never followed."""
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
