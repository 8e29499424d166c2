"""Parts of the cluster itself that stop while a run trains: the API server, the kubelet.

For clusters made by k8s/local/bare.sh on this machine, whose processes can be stopped and started again; else skipped.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from jobs.contract.attempts import read_status
from k8s.cluster.client import Api
from tests.chaos.ledger import last_step, result
from tests.chaos.test_pods import TRAINING
from tests.kubernetes.cluster import Space, kubectl, new_space, until

pytestmark = [pytest.mark.chaos, pytest.mark.cluster, pytest.mark.timeout(1800)]

STEPS = 1500
"""Half a minute, so that an outage falls into the training."""
LONG = [*TRAINING, f"steps.rm.args.max_steps={STEPS}", "steps.rm.args.save_steps=200", "steps.rm.args.eval_steps=1000"]
STATE = Path(os.environ.get("STATE", "/var/tmp/bare-kubernetes"))


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    """A namespace with the data set and an undisturbed run, `calm`."""
    if not (STATE / "kube-apiserver.pid").exists():
        pytest.skip("the cluster's processes are not those of k8s/local/bare.sh on this machine")
    with new_space(tmp_path_factory.mktemp("values")) as made:
        made.install("calm", *LONG)
        assert made.wait("calm", 1200) == "succeeded"
        yield made


@contextmanager
def stopped(name: str) -> Iterator[None]:
    """Kill a process of the cluster, and start the same again at the end."""
    process = psutil.Process(int((STATE / f"{name}.pid").read_text()))
    command, folder, environment = process.cmdline(), process.cwd(), process.environ()
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    try:
        yield
    finally:
        with (STATE / "log" / f"{name}.log").open("ab") as log:
            again = subprocess.Popen(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log,
                                     stderr=log, start_new_session=True)  # fmt: skip
        (STATE / f"{name}.pid").write_text(f"{again.pid}\n")


def training(space: Space, name: str) -> Path:
    """Install a run and wait until it trains; returns its output folder."""
    space.install(name, *LONG, "steps.ingest.enabled=false")
    output = space.folder / "artifacts/rm" / name
    until(lambda: last_step(output) > 0, 600)
    return output


def test_the_api_server_is_killed_and_comes_back(space: Space) -> None:
    """Killed three times for some seconds amid a training: nothing is restarted, and the run succeeds."""
    output = training(space, "headless")
    amid = 0
    for _ in range(3):
        with stopped("kube-apiserver"):
            time.sleep(5)
            amid += last_step(output) < STEPS
        until(lambda: kubectl("get", "--raw", "/readyz", check=False) == "ok", 120)
        time.sleep(3)
    print(f"\n{amid} of 3 times the training went on meanwhile")
    assert amid
    assert space.wait("headless", 600) == "succeeded"
    assert result(output) == result(space.folder / "artifacts/rm/calm")
    attempts = list((space.folder / "artifacts/runs/headless/steps/rm").glob("attempt-*"))
    assert len(attempts) == 1
    assert len(space.pods("app.kubernetes.io/instance=headless,aios-alignment/step=rm")) == 1


def test_a_kubelet_that_stops_is_named_and_its_return_ends_well(space: Space) -> None:
    """The node falls silent, the status names it; the kubelet comes back, and the run has the undisturbed result."""
    output = training(space, "silent")
    pod = space.pods("app.kubernetes.io/instance=silent,aios-alignment/step=rm")[0]
    with stopped("kubelet"):
        until(lambda: not ready(space.api, pod["spec"]["nodeName"]), 120, 1)
        found = until(lambda: space.state("silent")["steps"]["rm"].get("diagnosis"), 120, 1)
        print(f"\n{found['code']}: {found['summary']}; {found.get('resolution', '')}; step {last_step(output)}/{STEPS}")
        assert found["code"] == "NODE_LOST"
        # The kubelet is silent, the container is not: the training ends, and nobody hears of it yet.
        status = read_status(space.folder / "artifacts/runs/silent/steps/rm/attempt-1")
        assert status["state"] in ("running", "succeeded")
    until(lambda: ready(space.api, pod["spec"]["nodeName"]), 120, 1)
    assert space.wait("silent", 900) == "succeeded"
    assert result(output) == result(space.folder / "artifacts/rm/calm")


def ready(api: Api, node: str) -> bool:
    """Tell whether a node says that it is ready."""
    conditions = api.get(f"/api/v1/nodes/{node}")["status"]["conditions"]
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
