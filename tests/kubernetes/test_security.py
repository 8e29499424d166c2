"""What the charts grant and forbid, read from their renderings; a real server is asked in test_cluster_security."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.contract.errors import BadConfig
from k8s import values as run_values
from tests.kubernetes.rendering import CHARTS, Object, helm, objects, render
from tests.kubernetes.test_charts import write_values

STEPS = ("fetch-model", "ingest", "rm", "dpo", "evaluation")


def selected(policy: Object, labels: dict[str, str]) -> bool:
    """Tell whether a NetworkPolicy is for pods with these labels."""
    wanted = policy["spec"]["podSelector"].get("matchLabels", {})
    return all(labels.get(key) == value for key, value in wanted.items())


def egress(found: list[Object], labels: dict[str, str]) -> list[Any]:
    """Return all that pods with these labels may reach; None where no policy holds them back."""
    policies = [item for item in found if item["kind"] == "NetworkPolicy" and selected(item, labels)]
    assert policies, "nothing is closed"
    return [rule for policy in policies for rule in policy["spec"].get("egress", [])]


def pod_labels(found: list[Object]) -> dict[str, dict[str, str]]:
    """Return Job -> labels of its pods."""
    return {item["metadata"]["name"]: item["spec"]["template"]["metadata"]["labels"]
            for item in found if item["kind"] == "Job"}  # fmt: skip


DNS = {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}


def test_each_step_reaches_what_it_needs_and_nothing_else(tmp_path: Path) -> None:
    """DNS for all, the internet for fetch-model, the API for the conductor; other ways where the values name them."""
    closed = objects(render("platform", None, release="platform"))
    hub_step = ("steps.fetch-model.enabled=true", "steps.fetch-model.hub=true")
    labels = pod_labels(objects(render("run", write_values("kind-cpu", tmp_path, *hub_step))))
    for step in ("ingest", "rm", "dpo", "evaluation"):
        assert egress(closed, labels[f"demo-{step}"]) == [DNS]
    hub = egress(closed, labels["demo-fetch-model"])
    assert hub[0] == DNS
    assert [rule["to"][0]["ipBlock"]["cidr"] for rule in hub[1:]] == ["0.0.0.0/0"]
    assert "10.0.0.0/8" in hub[1]["to"][0]["ipBlock"]["except"]
    assert egress(closed, labels["demo-conductor"])[1:] == [
        {"ports": [{"protocol": "TCP", "port": 443}, {"protocol": "TCP", "port": 6443}]}
    ]
    opened = objects(
        render("platform", None, "--set=networkPolicy.egress.evaluation[0].to[0].ipBlock.cidr=203.0.113.7/32")
    )
    assert {"to": [{"ipBlock": {"cidr": "203.0.113.7/32"}}]} in egress(opened, labels["demo-evaluation"])
    assert egress(opened, labels["demo-rm"]) == [DNS]


def test_nothing_comes_in(tmp_path: Path) -> None:
    """No policy of ours opens a port of a step or of the conductor."""
    closed = [item for item in objects(render("platform", None)) if item["kind"] == "NetworkPolicy"]
    assert all(not policy["spec"].get("ingress") for policy in closed)
    default = next(policy for policy in closed if policy["metadata"]["name"] == "aios-alignment-default")
    assert default["spec"]["policyTypes"] == ["Ingress", "Egress"]


def test_ranks_reach_the_ranks_of_their_own_run_only(tmp_path: Path) -> None:
    """A step on several nodes brings a policy of its own, by release and step."""
    found = objects(render("run", write_values("gpu-multinode", tmp_path)))
    (policy,) = [item for item in found if item["kind"] == "NetworkPolicy"]
    gang = {"app.kubernetes.io/instance": "demo", "aios-alignment/step": "dpo"}
    assert policy["spec"]["podSelector"]["matchLabels"] == gang
    assert policy["spec"]["ingress"] == [{"from": [{"podSelector": {"matchLabels": gang}}]}]
    assert policy["spec"]["egress"] == [{"to": [{"podSelector": {"matchLabels": gang}}]}, DNS]
    assert not [
        item for item in objects(render("run", write_values("gpu", tmp_path))) if item["kind"] == "NetworkPolicy"
    ]


@pytest.mark.parametrize("profile", ["kind-cpu", "gpu-8", "gpu-multinode"])
def test_the_conductor_changes_what_is_named_and_nothing_else(tmp_path: Path, profile: str) -> None:
    """Its Role: reading Jobs and pods, patching the run's own Jobs and status by name; no Secret, no star."""
    found = objects(render("run", write_values(profile, tmp_path)))
    roles = [item for item in found if item["kind"] in ("Role", "ClusterRole")]
    assert [role["kind"] for role in roles] == ["Role"]
    jobs = {item["metadata"]["name"] for item in found if item["kind"] == "Job"} - {"demo-conductor"}
    writes = [rule for rule in roles[0]["rules"] if set(rule["verbs"]) - {"get", "list", "watch"}]
    named = {(kind, name) for rule in writes for kind in rule["resources"] for name in rule["resourceNames"]}
    assert named == {("jobs", name) for name in jobs} | {("configmaps", "demo-status")}
    assert {verb for rule in writes for verb in rule["verbs"]} <= {"get", "patch"}
    assert not any(word in str(roles) for word in ("secrets", "exec", "*"))


def test_secrets_come_by_reference_and_to_the_step_that_names_them(tmp_path: Path) -> None:
    """A step's Secret is a reference in that step's pod alone; its variable is among those that are hidden."""
    secret = "steps.evaluation.secrets=[{env: JUDGE, secret: judge, key: token}]"
    found = objects(render("run", write_values("kind-cpu", tmp_path, secret)))
    for item in found:
        if item["kind"] == "Job":
            env = {entry["name"]: entry for entry in item["spec"]["template"]["spec"]["containers"][0]["env"]}
            assert ("JUDGE" in env) is (item["metadata"]["name"] == "demo-evaluation")
    env = {entry["name"]: entry for entry in next(i for i in found if i["metadata"]["name"] == "demo-evaluation")
           ["spec"]["template"]["spec"]["containers"][0]["env"]}  # fmt: skip
    assert env["JUDGE"]["valueFrom"] == {"secretKeyRef": {"name": "judge", "key": "token"}}
    assert env["AIOS_SECRETS"]["value"] == "JUDGE"


@pytest.mark.parametrize("name", ["HF_TOKEN", "WANDB_API_KEY", "DB_PASSWORD"])
def test_values_take_no_secret_in_clear(tmp_path: Path, name: str) -> None:
    """A variable that is a secret by its name is refused by the launcher and by helm, with where it belongs."""
    with pytest.raises(BadConfig, match=r"put it into a Secret and name that in steps\.rm\.secrets"):
        run_values.compose("kind-cpu", settings=[f"steps.rm.env.{name}=x", "steps.ingest.args.input=a"], name="x")
    values = write_values("kind-cpu", tmp_path)
    assert name in helm("template", "x", str(CHARTS / "run"), "-f", str(values), f"--set=steps.rm.env.{name}=x", code=1)


def mounts(found: list[Object], job: str) -> dict[str, tuple[str, bool]]:
    """Return path -> (folder of the claim, read-only) of a step's pod."""
    pod = next(item for item in found if item["metadata"]["name"] == job)["spec"]["template"]["spec"]
    volumes = {volume["name"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume}
    return {mount["mountPath"]: (mount.get("subPath", ""), mount.get("readOnly", False))
            for mount in pod["containers"][0]["volumeMounts"] if mount["name"] in volumes}  # fmt: skip


def test_isolated_steps_see_their_own_run_only(tmp_path: Path) -> None:
    """`workspace.isolation=run`: nothing of the claim but the run's folders, its exports and what runs share."""
    settings = ("workspace.isolation=run", "steps.fetch-model.enabled=true")
    found = objects(render("run", write_values("kind-cpu", tmp_path, *settings)))
    own = {
        "/workspace/artifacts": ("isolated/demo/artifacts", False),
        "/workspace/training_data": ("isolated/demo/training_data", False),
        "/workspace/training_data/exports/demo": ("training_data/exports/demo", True),
    }
    for step in STEPS:
        base = {"/workspace/artifacts/base": ("artifacts/base", step != "fetch-model")}
        assert mounts(found, f"demo-{step}") == own | base
    open_to_all = objects(render("run", write_values("kind-cpu", tmp_path)))
    assert mounts(open_to_all, "demo-rm") == {"/workspace": ("", False)}


def test_processes_of_one_machine_cannot_be_isolated() -> None:
    """The local profile refuses what it could not keep."""
    with pytest.raises(BadConfig, match="needed: a cluster"):
        run_values.compose("local", settings=["workspace.isolation=run", "steps.ingest.args.input=a"], name="x")


@pytest.mark.parametrize("folder", ["/etc", "..", "artifacts/../..", "artifacts/.hidden", "isolated/other"])
def test_only_folders_of_the_workspace_can_be_shared(folder: str) -> None:
    """`workspace.shared` cannot lead out of artifacts and training_data."""
    with pytest.raises(BadConfig, match="a folder below artifacts or training_data"):
        run_values.compose("kind-cpu", settings=[f"workspace.shared=[{folder}]", "steps.ingest.args.input=a"], name="x")
