"""What is changed about a step before it is tried again, and what happens where a server does not take the change."""

from __future__ import annotations

import copy
import json
from typing import Any, cast

import pytest

from k8s import repair
from k8s.causes.diagnosis import Diagnosis
from k8s.cluster import names
from k8s.cluster.client import STRATEGIC, Api, ApiError
from k8s.cluster.conduct import Conductor
from k8s.repair import Repair

Object = dict[str, Any]
OOM = Diagnosis(code="OOM_CONTAINER", summary="out of memory", node="gpu-7")
BAD = Diagnosis(code="GPU_NODE_BAD", summary="Xid 79", node="gpu-7")


def pod(memory: str = "6Gi", **resources: Any) -> Object:
    """Return a failed pod with a memory limit."""
    container = {"name": "step", "resources": {"limits": {"memory": memory}} | resources}
    return {"metadata": {"name": "demo-rm-x"}, "spec": {"containers": [container]}, "status": {"phase": "Failed"}}


def job(**annotations: str) -> Object:
    """Return the pod's Job, which may grow."""
    return {
        "metadata": {"name": "demo-rm", "annotations": {names.GROW_MEMORY: "true"} | annotations},
        "spec": {"backoffLimit": 4, "template": {"spec": pod()["spec"]}},
        "status": {},
    }


def test_memory_grows_by_half_once_and_only_where_asked() -> None:
    """6 Gi become 9; the failure is not counted; a second time nothing is changed."""
    found = repair.wanted(job(), OOM, pod())
    assert found == Repair(memory="9Gi", backoff_limit=5)
    assert repair.wanted(job(**{names.GROW_MEMORY: ""}), OOM, pod()) is None
    entry = json.dumps([json.loads(found.to_json()) | {"refused": ""}])
    assert repair.wanted(job(**{names.MENDED: entry}), OOM, pod()) is None
    assert repair.wanted(job(), OOM, None) is None, "it still runs"


@pytest.mark.parametrize(
    ("limit", "more"), [("6Gi", "9Gi"), ("1Gi", "1536Mi"), ("500M", "716Mi"), ("64Mi", "96Mi"), ("2e9", "2862Mi")]
)
def test_quantities_grow_in_whole_units(limit: str, more: str) -> None:
    """Half as much again, rounded up to whole Mi, in Gi where that is exact."""
    found = repair.wanted(job(), OOM, pod(limit))
    assert found
    assert found.memory == more


def test_each_bad_node_is_left_out_and_three_are_enough() -> None:
    """A step that fails on three nodes is itself the likelier cause."""
    assert repair.wanted(job(), BAD, pod()) == Repair(node="gpu-7", backoff_limit=5)
    entries = [{"node": f"gpu-{n}", "refused": ""} for n in range(3)]
    assert repair.wanted(job(**{names.MENDED: json.dumps(entries)}), BAD, pod()) is None
    same = json.dumps([{"node": "gpu-7", "refused": ""}])
    assert repair.wanted(job(**{names.MENDED: same}), BAD, pod()) is None


def test_a_job_in_a_queue_is_left_to_kueue() -> None:
    """Kueue suspends and releases its Jobs itself."""
    queued = job()
    queued["metadata"]["labels"] = {names.KUEUE_LABEL: "team"}
    assert repair.wanted(queued, OOM, pod()) is None


def test_a_node_is_left_out_of_every_term_and_twice_changes_nothing() -> None:
    """Terms are alternatives, so each must say it; what else the values ask for stays."""
    given = job()
    terms = [{"matchExpressions": [{"key": "gpu", "operator": "In", "values": ["H100"]}]}, {}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    given["spec"]["template"]["spec"]["affinity"] = {"podAffinity": {}, "nodeAffinity": required}
    before = copy.deepcopy(given)
    body = repair.change(given, Repair(node="gpu-7", backoff_limit=5))
    assert given == before
    affinity = body["spec"]["template"]["spec"]["affinity"]
    away = {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["gpu-7"]}
    found = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert found == [{"matchExpressions": [*terms[0]["matchExpressions"], away]}, {"matchExpressions": [away]}]
    assert affinity["podAffinity"] == {}
    given["spec"]["template"]["spec"]["affinity"] = affinity
    assert repair.change(given, Repair(node="gpu-7", backoff_limit=5)) == body


def test_a_request_that_equals_its_limit_grows_with_it() -> None:
    """Guaranteed stays guaranteed; a smaller request stays what the values say."""
    given = job()
    resources = given["spec"]["template"]["spec"]["containers"][0]["resources"]
    resources["requests"] = {"memory": "6Gi", "cpu": "1"}
    changed = repair.change(given, Repair(memory="9Gi", backoff_limit=5))["spec"]["template"]["spec"]["containers"][0]
    assert changed == {"name": "step", "resources": {"limits": {"memory": "9Gi"}, "requests": {"memory": "9Gi"}}}
    resources["requests"] = {"memory": "4Gi"}
    changed = repair.change(given, Repair(memory="9Gi", backoff_limit=5))["spec"]["template"]["spec"]["containers"][0]
    assert changed["resources"] == {"limits": {"memory": "9Gi"}}


class OldServer:
    """An API server that does not let suspended Jobs be changed, as 1.35 and older; or one that does."""

    def __init__(self, *, old: bool) -> None:
        self.old, self.namespace, self.sent = old, "runs", list[Object]()

    def path(self, kind: str, name: str = "") -> str:
        return f"{kind}/{name}"

    def patch(self, path: str, body: Object, *, kind: str = "") -> Object:
        if kind == STRATEGIC and self.old:
            raise ApiError(422, "Invalid", "spec.template: field is immutable")
        self.sent.append(body)
        return {"metadata": {"name": "demo-rm", "resourceVersion": "8", "annotations": {}}, "spec": {}}


@pytest.mark.parametrize("old", [True, False], ids=["1.35", "1.36"])
def test_a_server_that_takes_no_change_has_the_step_tried_again_and_says_so(old: bool) -> None:
    """The step is let go in any case; the sentence tells what was changed, or what the server lacks."""
    held = job(**{names.MENDING: Repair(memory="9Gi", backoff_limit=5).to_json()})
    held["metadata"] |= {"resourceVersion": "7"}
    held["status"] = {"conditions": [{"type": "Suspended", "status": "True"}]}
    server = OldServer(old=old)
    Conductor(cast(Api, server), "demo", ("rm",), 60)._mend(held)
    last = server.sent[-1]
    assert last["spec"] == {"suspend": False}
    assert last["metadata"]["annotations"][names.MENDING] is None
    entry = json.loads(last["metadata"]["annotations"][names.MENDED])[-1]
    told = Repair(**{k: v for k, v in entry.items() if k != "refused"}).told(refused=bool(entry["refused"]))
    assert told == (
        "tried again unchanged: this server cannot give a suspended Job more memory (needs Kubernetes 1.36)"
        if old
        else "tried again, memory raised to 9Gi"
    )
    assert len(server.sent) == (1 if old else 2)
