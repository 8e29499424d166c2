"""What the doctor says of nodes, claims and images, from objects alone."""

from __future__ import annotations

from typing import Any

import pytest

from k8s import values as run_values
from k8s.cluster.images import _registry, wanted
from k8s.cluster.placement import _one_node, objections, quantity

NODE: dict[str, Any] = {
    "metadata": {"name": "gpu-1", "labels": {"nvidia.com/gpu.present": "true", "nvidia.com/gpu.product": "Tesla-T4"}},
    "spec": {"taints": [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]},
    "status": {"allocatable": {"cpu": "7910m", "memory": "29Gi", "nvidia.com/gpu": "1"}},
}
FITS: dict[str, Any] = {
    "nodeSelector": {"nvidia.com/gpu.present": "true"},
    "resources": {"requests": {"cpu": "4", "memory": "24Gi"}, "limits": {"nvidia.com/gpu": 1}},
}


@pytest.mark.parametrize(
    ("change", "lacks"),
    [
        ({}, []),
        ({"nodeSelector": {"nvidia.com/gpu.presnt": "true"}},
         ["the label nvidia.com/gpu.presnt=true (it has nvidia.com/gpu.present=true)"]),
        ({"nodeSelector": {"nvidia.com/gpu.product": "A100"}},
         ["the label nvidia.com/gpu.product=A100 (it has nvidia.com/gpu.product=Tesla-T4)"]),
        ({"gpuProducts": ["A100", "H100"]}, ["nvidia.com/gpu.product in A100, H100 (it has Tesla-T4)"]),
        ({"resources": {"limits": {"nvidia.com/gpu": 8}}}, ["8 nvidia.com/gpu (it has 1)"]),
        ({"resources": {"limits": {"nvidia.com/gpu": 1}, "requests": {"memory": "48Gi"}}},
         ["48Gi memory (it has 29Gi)"]),
        ({"resources": {"requests": {"cpu": "1"}}}, ["a toleration of its taint nvidia.com/gpu=present:NoSchedule"]),
        ({"resources": {}, "tolerations": [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]}, []),
    ],
)  # fmt: skip
def test_what_keeps_a_step_off_a_node_is_named(change: dict[str, Any], lacks: list[str]) -> None:
    """Labels with the one that was probably meant, taints, processors, memory, devices."""
    assert objections(NODE, FITS | change) == lacks


def test_quantities_are_read_as_kubernetes_writes_them() -> None:
    """Milli, decimal and binary units."""
    assert [quantity(text) for text in ("500m", "2", "4Gi", "1500M", 3)] == [0.5, 2, 4 * 2**30, 1.5e9, 3]


def test_a_claim_of_one_node_is_judged_by_where_the_steps_may_go() -> None:
    """Steps tied to different nodes, or one in several pods on two nodes: a problem. Else a warning."""

    def node(name: str) -> dict[str, Any]:
        return {"metadata": {"name": name, "labels": {"host": name}}, "spec": {}, "status": {}}

    def judged(steps: dict[str, Any], *names: str) -> str:
        return _one_node("c", "ReadWriteOnce", [node(name) for name in names], steps).level

    here, there = {"nodeSelector": {"host": "a"}}, {"nodeSelector": {"host": "b"}}
    assert judged({"rm": {}, "dpo": {}}, "a") == "ok"
    assert judged({"rm": {}, "dpo": {}}, "a", "b") == "warning"
    assert judged({"rm": here, "dpo": here}, "a", "b") == "warning"
    assert judged({"rm": here, "dpo": there}, "a", "b") == "problem"
    assert judged({"rm": {"nodes": 2}}, "a", "b") == "problem"
    assert judged({"rm-score": {"shards": 3}}, "a", "b") == "problem"
    assert judged({"rm-score": {"shards": 3}}, "a") == "ok"


@pytest.mark.parametrize(
    ("image", "parts"),
    [
        ("python:3.12", ("registry-1.docker.io", "library/python", "3.12")),
        ("team/rm:1", ("registry-1.docker.io", "team/rm", "1")),
        ("localhost:5000/rm:1", ("localhost:5000", "rm", "1")),
        ("registry.example/a/b/rm@sha256:00", ("registry.example", "a/b/rm", "sha256:00")),
    ],
)
def test_images_are_found_where_a_runtime_would(image: str, parts: tuple[str, str, str]) -> None:
    """Host, repository and tag or digest, with the defaults of container runtimes."""
    assert _registry(image) == parts


def test_the_images_of_a_run_are_those_of_its_pods() -> None:
    """The conductor's among them; a step's own tag or digest wins."""
    values = run_values.compose(
        "gpu", name="r", inputs=["x"], settings=["steps.rm.image.tag=mine", "image.registry=h/p"]
    )
    assert wanted(values) == [
        "h/p/dpo:0.1.0-cuda", "h/p/evaluation:0.1.0-cuda", "h/p/ingest:0.1.0-cuda", "h/p/launcher:0.1.0-cuda",
        "h/p/rm:mine",
    ]  # fmt: skip
