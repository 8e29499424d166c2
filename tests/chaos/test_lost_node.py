"""A node that falls silent with a step on it, beside one that goes on: k8s/local/second-node.sh makes it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.contract.manifest import verify
from k8s.cluster.client import Object
from tests.kubernetes.cluster import Space, kubectl, new_space, until
from tests.kubernetes.rendering import REPOSITORY

pytestmark = [pytest.mark.chaos, pytest.mark.cluster, pytest.mark.timeout(1800)]

STATE = Path(os.environ.get("STATE", "/var/tmp/bare-kubernetes"))
NODE = "node-2"
SCRIPT = REPOSITORY / "k8s/local/second-node.sh"
IMAGE = f"localhost/aios-alignment/ingest:{os.environ.get('AIOS_TEST_TAG', '0.1.0-cpu')}"
ON_THE_SECOND = [
    f"steps.ingest.nodeSelector.kubernetes\\.io/hostname={NODE}",
    "steps.ingest.tolerations=[{key: aios-alignment/second, operator: Exists}]",
]
# The first attempt waits to be lost; the next one does the work.
WAITS_ONCE = """
import os, pathlib, subprocess, sys, time
mark = pathlib.Path("artifacts/waited")
if not mark.exists():
    mark.touch()
    print("waiting", flush=True)
    time.sleep(3600)
folders = ["--input", "training_data/sample/argilla_export.jsonl", "--output", "training_data/curated_datasets/lost"]
sys.exit(subprocess.run(["aios", "data", "argilla-export", *folders]).returncode)
"""


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Space]:
    """A namespace of its own, and the second node."""
    if not (STATE / "kube-apiserver.pid").exists():
        pytest.skip("the cluster's processes are not those of k8s/local/bare.sh on this machine")
    second_node("up", IMAGE)
    try:
        with new_space(tmp_path) as made:
            yield made
    finally:
        second_node("down")


def second_node(*arguments: str) -> None:
    """Run the script that makes and ends the second node."""
    done = subprocess.run([str(SCRIPT), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def lose(name: str) -> None:
    """End everything of the node at once: the kubelet, the runtime, the containers."""
    for daemon in ("kubelet", "containerd"):
        file = STATE / name / f"{daemon}.pid"
        psutil.Process(int(file.read_text())).send_signal(signal.SIGKILL)
        file.unlink()
    for cgroup in Path("/sys/fs/cgroup").rglob(f"{name}/**/cgroup.procs"):
        for pid in cgroup.read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


def running(space: Space, release: str) -> Object | None:
    """Return the pod of the step where it runs."""
    found = space.pods(f"app.kubernetes.io/instance={release},aios-alignment/step=ingest")
    return next((pod for pod in found if pod["status"].get("phase") == "Running"), None)


def diagnosis(space: Space, release: str) -> dict[str, Any]:
    """Return what the status says of the step right now."""
    found: dict[str, Any] = space.state(release).get("steps", {}).get("ingest", {}).get("diagnosis") or {}
    return found


def test_a_lost_node_is_named_and_the_run_goes_on_when_it_is_back(space: Space) -> None:
    """The node with the step dies: the status names it and what to do; its return replaces the pod, the run ends."""
    space.install_program("lost", "ingest", WAITS_ONCE, *ON_THE_SECOND)
    pod = until(lambda: running(space, "lost"), 180)
    assert pod["spec"]["nodeName"] == NODE
    until(lambda: (space.folder / "artifacts/waited").exists(), 60)
    lose(NODE)
    died = time.monotonic()
    found = until(lambda: (d := diagnosis(space, "lost")).get("code") in ("NODE_LOST", "ZOMBIE_TERMINATING") and d, 180)
    print(f"\nafter {time.monotonic() - died:.0f} s {found['code']}: {found['summary']}; {found['resolution']}")
    assert found["node"] == NODE
    assert found["resolution"]
    assert space.state("lost")["phase"] == "running", "a node that is silent is no failure of the run"
    second_node("up")
    assert space.wait("lost", 600) == "succeeded"
    verify(space.folder / "training_data/curated_datasets/lost")
    kubectl("get", "node", NODE)
