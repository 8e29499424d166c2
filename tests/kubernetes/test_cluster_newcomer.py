"""What a new user gets wrong, against a real cluster: each time one line with the remedy, and the right exit code."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from k8s.cluster.client import Api
from tests.kubernetes.cluster import Space, kubectl, new_space
from tests.kubernetes.played import write_kubeconfig
from tests.kubernetes.test_cluster_cli import options, quick_values
from tests.runs.helpers import Cli

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
TAINT = {"key": "aios-alignment.test/nobody", "value": "x", "effect": "NoSchedule"}


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Space]:
    """A namespace of its own."""
    with new_space(tmp_path) as made:
        yield made


def one_line(said: str, *parts: str) -> None:
    """Expect one line that holds all parts, and no traceback."""
    assert said.count("\n") == 1, said
    assert all(part in said for part in parts), said


@contextmanager
def second_node(api: Api) -> Iterator[str]:
    """Add a node by hand that looks ready for a while; its taint keeps other pods off it."""
    name = f"aios-test-node-{time.time_ns() % 10**6}"
    metadata = {"name": name, "labels": {"kubernetes.io/hostname": name, "disk": "fast"}}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {"taints": [TAINT]}}
    api.create("/api/v1/nodes", node)
    try:
        size = {"cpu": "8", "memory": "64Gi", "pods": "110"}
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        ready = {"type": "Ready", "status": "True", "reason": "Played", "message": "", "lastHeartbeatTime": stamp}
        status = {"capacity": size, "allocatable": size, "conditions": [ready]}
        api.patch(f"/api/v1/nodes/{name}/status", {"status": status})
        yield name
    finally:
        api.delete(f"/api/v1/nodes/{name}")


def test_a_wrong_profile_and_a_typo_are_one_line(space: Space, tmp_path: Path) -> None:
    """A profile that is not there and a setting that is not there end with 64 and name what was probably meant."""
    cli, where = Cli(tmp_path), ["-n", space.namespace]
    one_line(cli("jobs", "submit", "--profile", "gpuu", *where, code=64), "no profile 'gpuu'", "kind-cpu")
    values = options(space, quick_values(space, "t"))
    one_line(cli("jobs", "submit", *values, "--set", "steps.dpo.args.bta=0.2", code=64), "bta", "beta")
    one_line(cli("jobs", "submit", *values, "--set", "steps.dop.enabled=false", code=64), "dop", "dpo")
    one_line(cli("jobs", "submit", *values, "--set", "steps.dpo.args.beta", code=64), "KEY=VALUE")


def test_a_namespace_that_does_not_exist_is_one_line(space: Space, tmp_path: Path) -> None:
    """Every command says that the namespace is not there and how to make it; nothing is made."""
    cli, values = Cli(tmp_path), quick_values(space, "t")
    where = ["-n", "aios-no-such-namespace"]
    for command in (["submit", "--profile", str(values)], ["status", "x"], ["logs", "x"], ["stop"], ["list"]):
        one_line(cli("jobs", *command, *where, code=78), "does not exist", "kubectl create namespace")
    assert "does not exist" in cli("jobs", "doctor", "--profile", str(values), *where, code=78)


def test_a_deleted_status_is_one_line_and_comes_back(space: Space, tmp_path: Path) -> None:
    """A run whose ConfigMap somebody deleted: 64 and a command, which makes it again and leaves the Jobs alone."""
    cli, where = Cli(tmp_path), ["-n", space.namespace]
    space.install("bare", "steps.ingest.image.name=nowhere")
    jobs = sorted(job["metadata"]["uid"] for job in space.api.get(space.api.path("jobs"))["items"])
    kubectl("-n", space.namespace, "delete", "configmap", "bare-status")
    said = cli("jobs", "status", "bare", *where, code=64)
    one_line(said, "the ConfigMap bare-status is gone")
    subprocess.run(said.split("`")[1], shell=True, capture_output=True)  # complains of all that exists
    assert "bare" in cli("jobs", "status", "bare", *where)
    assert sorted(job["metadata"]["uid"] for job in space.api.get(space.api.path("jobs"))["items"]) == jobs


def test_no_rights_are_one_line(space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody with a token and no role learns which rights are missing; submit makes nothing."""
    kubectl("-n", space.namespace, "create", "serviceaccount", "stranger")
    token = kubectl("-n", space.namespace, "create", "token", "stranger").strip()
    cli, values = Cli(tmp_path), quick_values(space, "t")
    path = write_kubeconfig(tmp_path, space.api.connection.server, token, space.namespace)
    monkeypatch.setenv("KUBECONFIG", str(path))
    where = options(space, values)
    one_line(cli("jobs", "submit", *where, code=78), "you may not create jobs", "the role `admin`")
    assert "you may not create jobs" in cli("jobs", "doctor", *where, code=78)
    for command in (["list"], ["status", "x"], ["logs", "x"], ["stop", "x"]):
        one_line(cli("jobs", *command, *where, code=77), "forbids", "ask for a role")
    path.write_text(path.read_text().replace(token, "nonsense"))
    one_line(cli("jobs", "list", *where, code=77), "401", "sign in again")
    assert space.api.get(space.api.path("jobs"))["items"] == []


def test_a_claim_of_one_node_and_steps_on_two_is_refused(space: Space, tmp_path: Path) -> None:
    """With a ReadWriteOnce claim, steps tied to two nodes, or one step on both, are refused with the remedy."""
    cli, values = Cli(tmp_path), options(space, quick_values(space, "t"))
    free = json.dumps([{"key": TAINT["key"], "operator": "Exists"}])
    own = space.api.get("/api/v1/nodes")["items"][0]["metadata"]["name"]
    with second_node(space.api) as name:
        away = [
            f"--set=steps.ingest.nodeSelector.kubernetes\\.io/hostname={name}",
            f"--set=steps.ingest.tolerations={free}",
        ]
        home = [f"--set=steps.fetch-model.nodeSelector.kubernetes\\.io/hostname={own}"]
        one_line(
            cli("jobs", "submit", *values, *away, *home, code=78),
            "ReadWriteOnce, but no single node of 2 takes all steps",
            "make the claim ReadWriteMany",
        )
        several = cli("jobs", "doctor", *values, "--set=steps.ingest.nodes=2", code=78)
        assert "ingest runs in several pods on 2 nodes, but the claim aios-workspace is ReadWriteOnce" in several
        assert "make the claim ReadWriteMany" in several
        moving = cli("jobs", "doctor", *values, code=None)
        assert (
            "warning  the claim aios-workspace is ReadWriteOnce and there are 2 nodes: it follows the steps" in moving
        )
        wrong = cli("jobs", "doctor", *values, away[1], "--set=steps.ingest.nodeSelector.disk=fats", code=78)
        assert f"the nearest, {name}, lacks the label disk=fats (it has disk=fast)" in wrong
