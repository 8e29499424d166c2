"""What `aios jobs status` makes of a failed run in a cluster: the sentence and what supports it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from k8s.cluster import names
from k8s.cluster.runs import view
from k8s.conductor import Phase
from k8s.show import evidence

CORPUS = Path(__file__).with_name("corpus")


def picture(case: str, state: dict[str, Any] | None = None, nodes: tuple[Any, ...] = ()) -> Any:
    """Return the view of a run of one step that a case of the corpus shows."""
    found = json.loads((CORPUS / f"{case}.json").read_text())
    job = found["job"]
    job["metadata"]["name"] = "demo-rm"
    pods = {pod["metadata"]["name"]: pod for pod in found.get("pods", [])}
    for pod in pods.values():
        pod["metadata"].setdefault("labels", {})["job-name"] = "demo-rm"
    metadata = {"name": "demo-status", "labels": {names.RUN: "demo"}, "creationTimestamp": "2026-11-29T00:00:00Z"}
    status = {"metadata": metadata, "data": {"state.json": json.dumps(state or {})}}
    return view("demo", {"demo-rm": job}, pods, {"demo-status": status}, nodes)


def test_the_status_has_the_code_the_cause_and_what_to_do() -> None:
    """One sentence with code and remedy; below it the API's own words."""
    step = picture("image-not-found").steps[0]
    assert step.message.startswith("IMAGE_PERMANENT: the image localhost:5055/rm:404 cannot be pulled; check registry")
    assert step.diagnosis["code"] == "IMAGE_PERMANENT"
    assert any("404" in line for line in evidence(picture("image-not-found")))


def test_what_the_conductor_saw_is_shown_when_the_pods_are_gone() -> None:
    """Events and cause come from the status ConfigMap; what was changed is told, too."""
    recorded = {"code": "OOM_CONTAINER", "summary": "out of memory (limit 6Gi)", "resolution": "give it more",
                "evidence": ["02:00:00Z Killing: Stopping container step"]}  # fmt: skip
    step = {"phase": "failed", "diagnosis": recorded, "repairs": ["tried again, memory raised to 9Gi"], "attempts": []}
    found = picture("job-backoff-pods-gone", {"steps": {"rm": step}})
    assert found.steps[0].phase is Phase.FAILED
    assert found.steps[0].message == "OOM_CONTAINER: out of memory (limit 6Gi); give it more"
    assert [line for line in evidence(found) if "Killing" in line or "9Gi" in line] == [
        "rm: 02:00:00Z Killing: Stopping container step",
        "rm: tried again, memory raised to 9Gi",
    ]


def test_who_may_read_nodes_sees_what_the_nearest_one_lacks() -> None:
    """The conductor may not; the person who asks perhaps may."""
    nodes = tuple(json.loads((CORPUS / "unschedulable-label.json").read_text())["nodes"])
    told = picture("unschedulable-label", nodes=nodes).steps[0].message
    assert "the nearest, node-1, lacks: label nvidia.com/gpu.product=H100" in told
