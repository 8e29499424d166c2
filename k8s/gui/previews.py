"""Ingestions that a person looks at before they replace the data in use.

A preview is a data set of its own, `draft-NAME-...`, made by a run of its own. Accepting it ingests the same export
with the same settings into NAME: the result is the same to the byte, and the exchange is that of every ingestion,
whole and refused while a live run reads the data.
"""

from __future__ import annotations

import copy
import re
import time
from pathlib import Path
from typing import Any

from jobs.contract.errors import BadConfig
from jobs.contract.files import remove_tree
from k8s.gui import launch
from k8s.gui.cloning import clone
from k8s.gui.datasets import DRAFT, data_set
from k8s.gui.launch import Form
from k8s.values import DATASETS

_STAMP = r"-\d{6}$"


def named(form: Form, target: str, *, preview: bool) -> Form:
    """Return the form of an ingestion into a data set, or into a preview of it."""
    made = copy.deepcopy(form)
    made.dataset = f"{DRAFT}{target[:26]}-{time.strftime('%H%M%S')}" if preview else target
    return made


def target_of(dataset: str) -> str:
    """Return the data set that a preview is for; empty where it is none."""
    found = re.fullmatch(rf"{DRAFT}(.+){_STAMP}", dataset)
    return found.group(1) if found else ""


def accept(values: dict[str, Any]) -> str:
    """Start the ingestion that replaces the data; returns the run's name. The preview goes.

    Raises:
        AiosError: it is no preview, or the data are in use.
    """
    dataset = str(values["run"]["dataset"])
    target = target_of(dataset)
    if not target:
        raise BadConfig(f"{dataset} is no preview")
    form = clone(values, "local")
    form.kind, form.dataset, form.evaluate = "ingest", target, False
    form.args["ingest"]["overwrite"] = True
    name = launch.start(form)
    discard(dataset)
    return name


def discard(dataset: str) -> None:
    """Delete a preview.

    Raises:
        AiosError: it is none.
    """
    if not target_of(dataset):
        raise BadConfig(f"{dataset} is no preview")
    remove_tree(data_set(dataset).folder)
    guard = Path(DATASETS) / f".{dataset}.lock.guard"
    guard.unlink(missing_ok=True)
