"""Checkpoints that tell whether they are whole: transformers resumes from a half-written one without a word."""

from __future__ import annotations

import re
from pathlib import Path

import orjson

from jobs.contract.errors import BadConfig
from jobs.contract.files import fsync_path, remove_tree, write_json
from jobs.contract.log import LOG

MARKER = "_COMPLETE.json"
_NAME = re.compile(r"^checkpoint-(\d+)$")


def mark_complete(checkpoint: Path) -> None:
    """Write down the size of every file of a checkpoint once all of them are on disk."""
    files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != MARKER]
    for path in files:
        fsync_path(path)
    write_json(checkpoint / MARKER, {p.relative_to(checkpoint).as_posix(): p.stat().st_size for p in files})


def is_complete(checkpoint: Path) -> bool:
    """Tell whether a checkpoint holds every file it had when it was marked, at its size."""
    try:
        sizes = orjson.loads((checkpoint / MARKER).read_bytes())
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, orjson.JSONDecodeError, AttributeError):
        return False


def step_of(checkpoint: Path) -> int:
    """Return the global step in a checkpoint's name."""
    match = _NAME.match(checkpoint.name)
    if match is None:
        raise BadConfig(f"{checkpoint} is not named checkpoint-STEP", next_step="name a folder under checkpoints/")
    return int(match.group(1))


def newest_complete(folder: Path) -> Path | None:
    """Return the newest whole checkpoint under `folder`; torn ones are reported and passed over."""
    found = [path for path in folder.glob("checkpoint-*") if _NAME.match(path.name)]
    for checkpoint in sorted(found, key=step_of, reverse=True):
        if is_complete(checkpoint):
            return checkpoint
        LOG.warning("Passing over %s: it was not finished", checkpoint)
    return None


def drop_after(step: int, folder: Path) -> None:
    """Remove the checkpoints of later steps, which a run that goes on from `step` will write anew.

    They are torn, or belong to a course that was left by `--resume DIR`. Staying, they would be taken for the newest:
    transformers then deletes the ones that it has just written, to keep to --save-limit.
    """
    for path in folder.glob("checkpoint-*"):
        if _NAME.match(path.name) and step_of(path) > step:
            LOG.info("Removing %s, which comes after step %d", path, step)
            remove_tree(path)


def choose(resume: str, folder: Path) -> Path | None:
    """Return the checkpoint that `--resume` means.

    Raises:
        BadConfig: a folder was named that is no whole checkpoint.
    """
    if resume == "never":
        return None
    if resume == "auto":
        return newest_complete(folder)
    checkpoint = Path(resume)
    step_of(checkpoint)
    if not is_complete(checkpoint):
        raise BadConfig(f"{checkpoint} is not a complete checkpoint", next_step="use --resume auto")
    return checkpoint
