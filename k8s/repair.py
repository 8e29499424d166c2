"""What can be changed about a step so that its next attempt goes better: pure, from its Job and its diagnosis.

Jobs take such changes while they are suspended, on Kubernetes 1.36 and newer. Each is made once and written down on
the Job, so that a conductor that dies in between, or a second one, does the same thing again and not another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from k8s.causes.diagnosis import Diagnosis
from k8s.causes.memory import suggested_memory
from k8s.cluster import names
from k8s.objects import Object, annotation, container, label

HOSTNAME = "kubernetes.io/hostname"
MOST_NODES = 3
"""A step that fails on as many nodes is itself the likelier cause."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Repair:
    """One change."""

    memory: str = ""
    """The new memory limit."""
    node: str = ""
    """A node to keep away from."""
    backoff_limit: int = 0
    """One failure more than before: the one that led to this change does not count."""

    def to_json(self) -> str:
        """Return what the annotation holds."""
        return json.dumps({"memory": self.memory, "node": self.node, "backoff_limit": self.backoff_limit})

    def told(self, *, refused: bool) -> str:
        """Say it in a sentence."""
        what = f"memory raised to {self.memory}" if self.memory else f"the node {self.node} is left out"
        if refused:
            wanted = "more memory" if self.memory else "another node"
            return f"tried again unchanged: this server cannot give a suspended Job {wanted} (needs Kubernetes 1.36)"
        return f"tried again, {what}"


def wanted(job: Object, diagnosis: Diagnosis | None, failed_pod: Object | None) -> Repair | None:
    """Return the change that a failed attempt asks for; None where there is none, or it was made already."""
    if diagnosis is None or failed_pod is None or annotation(job, names.MENDING) or annotation(job, names.GIVEN_UP):
        return None
    if label(job, names.KUEUE_LABEL) or job.get("spec", {}).get("suspend"):
        return None  # a Job in a queue is suspended and let go by Kueue alone
    before = made(job)
    limit = int(job.get("spec", {}).get("backoffLimit", 6)) + 1
    if diagnosis.code == "OOM_CONTAINER" and annotation(job, names.GROW_MEMORY):
        memory = suggested_memory(failed_pod)
        if memory and not any(entry.get("memory") for entry in before):
            return Repair(memory=memory, backoff_limit=limit)
    if diagnosis.code == "GPU_NODE_BAD" and diagnosis.node:
        left_out = [entry["node"] for entry in before if entry.get("node")]
        if diagnosis.node not in left_out and len(left_out) < MOST_NODES:
            return Repair(node=diagnosis.node, backoff_limit=limit)
    return None


def pending(job: Object) -> Repair | None:
    """Return the change that a held Job is held for."""
    try:
        document = json.loads(annotation(job, names.MENDING) or "{}")
        return Repair(**document) if document else None
    except (ValueError, TypeError):
        return None


def made(job: Object) -> list[dict[str, Any]]:
    """Return the changes that were made or refused, the oldest first."""
    try:
        found = json.loads(annotation(job, names.MENDED) or "[]")
    except ValueError:
        return []
    return found if isinstance(found, list) else []


def change(job: Object, repair: Repair) -> dict[str, Any]:
    """Return the strategic merge patch of the Job's spec. Made twice it gives the same."""
    spec: dict[str, Any] = {"backoffLimit": repair.backoff_limit}
    pod = job.get("spec", {}).get("template", {}).get("spec", {})
    if repair.memory:
        own = container({"spec": pod})
        resources = {"limits": {"memory": repair.memory}}
        requests = (own.get("resources") or {}).get("requests") or {}
        limits = (own.get("resources") or {}).get("limits") or {}
        if requests.get("memory") and requests["memory"] == limits.get("memory"):
            resources["requests"] = {"memory": repair.memory}
        changed: dict[str, Any] = {"containers": [{"name": own.get("name", "step"), "resources": resources}]}
    else:
        changed = {"affinity": _without(pod.get("affinity") or {}, repair.node)}
    return {"spec": spec | {"template": {"spec": changed}}}


def _without(affinity: Mapping[str, Any], node: str) -> dict[str, Any]:
    """Return an affinity that keeps away from a node: in each of its terms, since one that fits is enough."""
    key = "requiredDuringSchedulingIgnoredDuringExecution"
    own = affinity.get("nodeAffinity") or {}
    away = {"key": HOSTNAME, "operator": "NotIn", "values": [node]}
    terms = [dict(term) for term in (own.get(key) or {}).get("nodeSelectorTerms") or [{}]]
    for term in terms:
        there = list(term.get("matchExpressions") or [])
        term["matchExpressions"] = there if away in there else [*there, away]
    return {**affinity, "nodeAffinity": {**own, key: {"nodeSelectorTerms": terms}}}
