"""Claiming the output folder: finished already, to be continued, or to be begun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from jobs.config.fields import identity
from jobs.config.training import TrainingConfig
from jobs.contract.child import report_result
from jobs.contract.errors import BadConfig
from jobs.contract.files import make_folder, write_json
from jobs.contract.lock import FolderLock
from jobs.contract.log import LOG
from jobs.contract.manifest import Manifest
from jobs.contract.publish import already_published, recover, retire
from jobs.training.checkpoints import choose, drop_after, step_of

UNFINISHED = "unfinished.json"
"""What a folder without a manifest is being trained with: another configuration must not resume from it."""


def report_finished(config: TrainingConfig, manifest: Manifest) -> None:
    LOG.info("%s is already there, made from the same inputs with the same settings: nothing to do", config.output_dir)
    report_result(exit_code=0, message="already published", manifest_sha256=manifest.sha256, skipped=True)


def claim(config: TrainingConfig, inputs: dict[str, str], lock: FolderLock) -> tuple[bool, Path | None]:
    """Return whether the folder already holds this result, else the checkpoint to go on from."""
    folder = lock.folder
    recover(folder, lock)
    settings = identity(config)
    manifest = already_published(folder, inputs=inputs, config=settings, overwrite=config.overwrite)
    if manifest is not None:
        report_finished(config, manifest)
        return True, None
    _prepare(folder, lock, config, {"inputs": inputs, "config": settings})
    checkpoint = choose(config.resume, folder / "checkpoints")
    drop_after(step_of(checkpoint) if checkpoint else 0, folder / "checkpoints")
    return False, checkpoint


def _prepare(folder: Path, lock: FolderLock, config: TrainingConfig, current: dict[str, Any]) -> None:
    """Make the folder ready: what another configuration left unfinished in it is not mixed with this one."""
    make_folder(folder)
    marker = folder / UNFINISHED
    earlier = orjson.loads(marker.read_bytes()) if marker.exists() else None
    finished = (folder / "_SUCCESS.json").exists()
    if earlier is not None and earlier != current and not config.overwrite and config.resume != "never":
        raise BadConfig(
            f"{folder} holds an unfinished training with other inputs or settings",
            next_step="use the same settings to resume it, --overwrite to drop it, or another output folder",
        )
    if finished or config.resume == "never" or (earlier is not None and earlier != current):
        retire(folder, lock)
    write_json(marker, current)
