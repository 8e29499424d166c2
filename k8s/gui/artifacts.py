"""What a run has left on the volume: folders, downloads, the last checkpoint, a link to Weights & Biases."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from jobs.contract.errors import AiosError
from jobs.contract.manifest import MANIFEST_NAME, read_manifest
from jobs.contract.splits import REPORT_NAME
from k8s.gui.files import inside
from k8s.gui.runs import folder_of
from k8s.show import duration
from k8s.values import enabled_steps

_DOWNLOADS = ("metrics.jsonl", "training.log", "report.json", "report.md", REPORT_NAME, MANIFEST_NAME)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepFiles:
    """The folder of one step."""

    step: str
    folder: Path
    there: bool
    published: bool
    downloads: tuple[str, ...] = ()
    checkpoint: str = ""
    tracking: tuple[str, str] = ("", "")


def of_run(values: dict[str, Any]) -> list[StepFiles]:
    """Return the folders that a run writes, in the order of its steps."""
    found = []
    for step in enabled_steps(values):
        try:
            found.append(_of_step(step, folder_of(values, step)))
        except (AiosError, OSError):
            continue
    return found


def _of_step(step: str, folder: Path) -> StepFiles:
    real = inside(folder)
    return StepFiles(
        step=step,
        folder=folder,
        there=real.is_dir(),
        published=real.is_dir() and _published(real),
        downloads=tuple(name for name in _DOWNLOADS if (real / name).is_file()),
        checkpoint=_checkpoint(real),
        tracking=_tracking(real),
    )


def _published(folder: Path) -> bool:
    try:
        return read_manifest(folder) is not None
    except AiosError:
        return False


def _checkpoint(folder: Path) -> str:
    """Return `Last checkpoint: step 200, 3 min 10 s old`, of those that are complete."""
    complete = [
        (int(path.parent.name.removeprefix("checkpoint-")), path)
        for path in folder.glob("checkpoints/checkpoint-*/_COMPLETE.json")
        if path.parent.name.removeprefix("checkpoint-").isdigit()
    ]
    if not complete:
        return ""
    step, path = max(complete)
    return f"Last checkpoint: step {step}, {duration(time.time() - path.stat().st_mtime)} old"


def _tracking(folder: Path) -> tuple[str, str]:
    """Return words and address of the Weights & Biases run; only what is an address of the web becomes a link."""
    try:
        found = orjson.loads((folder / "wandb" / "run.json").read_bytes())
        words = f"W&B run {found.get('project')}/{found.get('id')}"
        url = str(found.get("url") or "")
    except (OSError, orjson.JSONDecodeError, AttributeError):
        return "", ""
    return (words, url) if url.startswith(("https://", "http://")) else (f"{words}, kept offline", "")
