"""What goes wrong around a run in a cluster: each round ends in the right diagnosis, or well once it is mended."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from jobs.contract.manifest import MANIFEST_NAME, verify
from tests.kubernetes.cluster import Space, kubectl, new_space, until

pytestmark = [pytest.mark.chaos, pytest.mark.cluster, pytest.mark.timeout(3600)]

ONLY_INGEST = [f"steps.{step}.enabled=false" for step in ("rm", "dpo", "evaluation")]
LABEL = "aios-alignment-chaos"


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    """A namespace of its own."""
    with new_space(tmp_path_factory.mktemp("values")) as made:
        yield made


def diagnosed(space: Space, name: str, step: str = "ingest", seconds: float = 120) -> dict[str, Any]:
    """Wait for the diagnosis of a step in the status ConfigMap and return it."""

    def look() -> Any:
        return space.state(name).get("steps", {}).get(step, {}).get("diagnosis")

    found: dict[str, Any] = until(look, seconds)
    print(f"\n{name}: {found['code']}: {found['summary']}; {found.get('resolution', '')}")
    return found


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """Put a file system without room on a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k,mode=777", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


FAULTS: dict[str, tuple[list[str], str]] = {
    "image": (["steps.ingest.image.name=nowhere"], "IMAGE_PERMANENT"),
    "secret": (["steps.ingest.secrets=[{env: KEY, secret: nowhere, key: key}]"], "CONFIG"),
    "claim": (["workspace.claim=nowhere"], "UNSCHEDULABLE"),
    "label": ([f"steps.ingest.nodeSelector.{LABEL}=yes"], "UNSCHEDULABLE"),
    "resources": (["steps.ingest.resources.requests.cpu=500"], "UNSCHEDULABLE"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_step_that_cannot_start_says_why(space: Space, fault: str) -> None:
    """A wrong image, a missing Secret or claim, a node that is not there: named while the pod still waits."""
    settings, code = FAULTS[fault]
    space.install(f"no-{fault}", *ONLY_INGEST, *settings)
    found = diagnosed(space, f"no-{fault}")
    assert found["code"] == code
    assert found["resolution"]
    assert space.state(f"no-{fault}")["phase"] == "running", "it waits: somebody may mend it"


def mended(space: Space, name: str) -> None:
    """The run ends well, and what it published is whole."""
    assert space.wait(name, 900) == "succeeded"
    assert (space.folder / "training_data/curated_datasets" / name / MANIFEST_NAME).exists()
    verify(space.folder / "training_data/curated_datasets" / name)


def make_secret(space: Space) -> None:
    kubectl("-n", space.namespace, "create", "secret", "generic", "late", "--from-literal=key=long-enough")


def label_node(space: Space) -> None:
    kubectl("label", "node", "--all", f"{LABEL}-late=yes", "--overwrite")


@pytest.mark.parametrize(
    ("setting", "mend"),
    [
        ("steps.ingest.secrets=[{env: KEY, secret: late, key: key}]", make_secret),
        (f"steps.ingest.nodeSelector.{LABEL}-late=yes", label_node),
    ],
    ids=["secret", "label"],
)
def test_what_is_mended_in_time_succeeds(space: Space, setting: str, mend: Callable[[Space], None]) -> None:
    """A Secret that comes late, a node that gets its label late: the step that waited starts and succeeds."""
    name = "late-label" if "nodeSelector" in setting else "late-secret"
    space.install(name, *ONLY_INGEST, setting)
    diagnosed(space, name)
    try:
        mend(space)
        mended(space, name)
    finally:
        kubectl("label", "node", "--all", f"{LABEL}-late-", check=False)


def test_a_full_volume_fails_the_step_and_leaves_no_half_result(space: Space) -> None:
    """No room for the result: code 74, named; with room again the same run, resumed, succeeds."""
    folder = space.folder / "training_data/curated_datasets"
    with full(folder):
        space.install("full", *ONLY_INGEST, "steps.ingest.backoffLimit=0")
        assert space.wait("full", 300) == "failed"
        step = space.state("full")["steps"]["ingest"]
        assert "the disk is full" in step["attempts"][-1]["message"]
        assert step["diagnosis"]["code"] in ("APP_VOLUME", "VOLUME_FULL", "DISK_FULL"), step["diagnosis"]
        assert not (folder / "full" / MANIFEST_NAME).exists()
    os.chown(folder, 10001, 10001)
    command = ["aios", "jobs", "resume", "full", "-n", space.namespace]
    subprocess.run(command, check=True, capture_output=True)
    space.releases.append("full-r2")
    assert space.wait("full-r2", 300) == "succeeded"
    verify(folder / "full")


def test_too_little_memory_is_named(space: Space) -> None:
    """A training whose limit is too low for it is out of memory, not "failed"; the sentence has the limit."""
    few = ["steps.ingest.enabled=true", "steps.dpo.enabled=false", "steps.evaluation.enabled=false"]
    memory = ["steps.rm.resources.limits.memory=96Mi", "steps.rm.resources.requests.memory=64Mi"]
    space.install("hungry", *few, *memory, "steps.rm.backoffLimit=0")
    assert space.wait("hungry", 600) == "failed"
    found = diagnosed(space, "hungry", "rm")
    assert found["code"] == "OOM_CONTAINER"
    assert "memory" in f"{found['summary']} {found['detail']} {found['resolution']}"
