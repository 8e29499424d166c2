"""Two runs and their folders: what a live run uses is not written by another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobs.contract.errors import FolderBusy
from k8s.steps import STEPS
from k8s.values import enabled_steps, output_folder


def writes(values: Mapping[str, Any]) -> set[str]:
    """Return the folders that a run publishes."""
    return {output_folder(name, step) for name, step in enabled_steps(values).items()}


def reads(values: Mapping[str, Any]) -> set[str]:
    """Return the folders and models that a run reads."""
    steps = enabled_steps(values)
    return {str(step["args"][key]) for name, step in steps.items() for key in STEPS[name].reads if key in step["args"]}


def conflict(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Refuse a run whose folders a live one uses.

    Raises:
        FolderBusy: naming the folder and the run.
    """
    shared = (writes(mine) & (reads(theirs) | writes(theirs))) | (reads(mine) & writes(theirs))
    if shared:
        raise FolderBusy(
            f"{min(shared)} is used by the run {theirs['run']['name']}, which has not ended",
            next_step="wait for it, stop it, or choose other folders (--name, --set run.dataset=NAME)",
        )
