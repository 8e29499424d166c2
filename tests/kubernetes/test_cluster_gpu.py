"""Placement on GPU nodes, proven with a fake extended resource: the scheduler and the kubelet cannot tell."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kubernetes.cluster import Space, kubectl, new_space, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]
LABEL = "nvidia.com/gpu.present"
# The profile asks for machines that tests do not have; labels, devices and tolerations stay as they are.
SMALL = [f"steps.{step}.resources.{part}" for step in ("rm", "dpo", "evaluation")
         for part in ("requests.memory=1Gi", "limits.memory=4Gi", "requests.cpu=100m")]  # fmt: skip


class Node:
    """The node of the cluster, with a capacity that it does not have."""

    def __init__(self) -> None:
        oldest = kubectl("get", "nodes", "-o", "name", "--sort-by=.metadata.creationTimestamp").splitlines()[0]
        self.name = oldest.removeprefix("node/")  # others may be the pretence of another test

    def label(self, value: str | None) -> None:
        kubectl("label", "node", self.name, f"{LABEL}={value}" if value else f"{LABEL}-", "--overwrite")

    def capacity(self, value: str | None) -> None:
        both = {"nvidia.com/gpu": value}
        patch = json.dumps({"status": {"capacity": both, "allocatable": both}})
        kubectl("patch", "node", self.name, "--subresource=status", "--type=merge", "-p", patch)


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Space]:
    """A namespace of its own."""
    with new_space(tmp_path) as made:
        yield made


@pytest.fixture
def node() -> Iterator[Node]:
    """The node, without label and capacity before and after."""
    found = Node()
    found.label(None)
    found.capacity(None)
    yield found
    found.label(None)
    found.capacity(None)


def test_the_gpu_profile_waits_for_label_and_capacity(space: Space, node: Node) -> None:
    """DPO of the `gpu` profile is diagnosed as pending without the label, waits with the label alone, runs with both;
    ingestion asked for neither.
    """
    space.install(
        "gpu", *SMALL, "steps.rm.enabled=false", "steps.evaluation.enabled=false", "run.dataset=gpu", profile="gpu"
    )
    selector = "app.kubernetes.io/instance=gpu,aios-alignment/step=dpo"
    until(lambda: space.pods(selector), 300)
    diagnosed = until(lambda: space.state("gpu")["steps"]["dpo"].get("diagnosis"), 60)
    assert diagnosed["code"] == "UNSCHEDULABLE"
    assert f"the label {LABEL}=true and 1 nvidia.com/gpu" in diagnosed["summary"]
    assert "didn't match Pod's node affinity/selector" in diagnosed["detail"]
    node.label("true")
    time.sleep(5)
    assert not space.pods(selector)[0]["spec"].get("nodeName"), "the label alone was enough"
    assert "nvidia.com/gpu" in until(
        lambda: (
            (detail := space.state("gpu")["steps"]["dpo"]["diagnosis"]["detail"])
            and "Insufficient" in detail
            and detail
        ),
        60,
    )
    node.capacity("1")
    until(lambda: space.pods(selector)[0]["spec"].get("nodeName") == node.name, 60)
    assert space.wait("gpu", 900) == "succeeded"
    ingest = space.pods("app.kubernetes.io/instance=gpu,aios-alignment/step=ingest")[0]["spec"]
    assert "nodeSelector" not in ingest
    assert "nvidia.com/gpu" not in ingest["containers"][0]["resources"]["limits"]


def test_capacity_without_the_label_is_not_enough(space: Space, node: Node) -> None:
    """A node with the device but without the label takes no GPU step."""
    node.capacity("1")
    only_dpo = [f"steps.{step}.enabled=false" for step in ("ingest", "rm", "evaluation")]
    space.install("gpu", *SMALL, *only_dpo, profile="gpu")
    diagnosed = until(lambda: space.state("gpu").get("steps", {}).get("dpo", {}).get("diagnosis"), 120)
    assert "didn't match Pod's node affinity/selector" in diagnosed["detail"]
    time.sleep(5)
    assert not space.pods("app.kubernetes.io/instance=gpu,aios-alignment/step=dpo")[0]["spec"].get("nodeName")
