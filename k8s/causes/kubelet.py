"""Pods that their kubelet refused, evicted or ended, and why: from `status.reason` and its message."""

from __future__ import annotations

import re

from jobs.contract.errors import ExitCode
from k8s.causes.devices import refused_device
from k8s.causes.diagnosis import Diagnosis, Scene
from k8s.objects import container, ending, node_of, termination_message

_REPLACED = "nothing: it is replaced, uncounted, and goes on from its last checkpoint"
_PLACEMENT = ("NodeAffinity", "NodeName", "NodePorts", "TopologyAffinityError", "SMTAlignmentError", "InvalidNodeInfo",
              "PodOSSelectorNodeLabelDoesNotMatch", "PodOSNotSupported", "TaintToleration")  # fmt: skip
_CHANGED = ("NodeAffinity", "TaintToleration")
_FEATURES = ("AppArmor", "SysctlForbidden", "SupplementalGroupsPolicyNotSupported", "ProcMount",
             "PodFeatureUnsupported", "InvalidInitContainerRestartPolicy", "UserNamespacesNotSupported")  # fmt: skip
_SHUTDOWN = ("Terminated", "NodeShutdown", "Shutdown")
REJECTIONS = frozenset({"Evicted", "Preempting", "UnexpectedAdmissionError", *_PLACEMENT, *_FEATURES, *_SHUTDOWN})


def kubelet_ended(scene: Scene, reason: str, message: str) -> Diagnosis:
    """Return the diagnosis of a pod that its kubelet did not keep."""
    node = node_of(scene.pod)
    if reason == "UnexpectedAdmissionError":
        return refused_device(scene, message)
    if reason.startswith("OutOf"):
        return _no_room(scene, reason.removeprefix("OutOf"), message)
    if reason in _PLACEMENT:
        return Diagnosis(
            code="UNSCHEDULABLE", node=node, detail=message,
            summary=f"the node {node} refused the pod ({reason})"
            + (": its labels or taints changed after it was chosen" if reason in _CHANGED else ""),
            resolution="nothing: it is tried again elsewhere; if it recurs, compare selectors and node labels: "
            "`aios jobs doctor`",
        )  # fmt: skip
    if reason in _FEATURES:
        return Diagnosis(
            code="CONFIG", summary=f"the node {node} cannot run a pod like this ({reason})", node=node, detail=message,
            resolution="take the setting out of the values, or choose other nodes",
        )  # fmt: skip
    if reason in _SHUTDOWN or re.search(r"node (is )?(shutdown|shutting down)|node shutdown", message, re.IGNORECASE):
        return _told(scene, "NODE_LOST", f"its node {node} shut down", message)
    if reason == "Preempting" or "critical pod" in message:
        return _told(scene, "PREEMPTED", "it made room for a pod that the node cannot do without", message)
    return _evicted(scene, message)


def _no_room(scene: Scene, resource: str, message: str) -> Diagnosis:
    node = node_of(scene.pod)
    if "/" in resource:
        return refused_device(scene, message)
    return Diagnosis(
        code="UNSCHEDULABLE", summary=f"the node {node} had no {resource} left when the pod came", node=node,
        detail=message, resolution="nothing: it is tried again; if it recurs, lower the requests or add a node",
    )  # fmt: skip


def _evicted(scene: Scene, message: str) -> Diagnosis:
    """Tell apart what ran out: a limit of the pod's own, or the node's disk, memory or processes."""
    node = node_of(scene.pod)
    volume = re.search(r'EmptyDir volume "([^"]+)" exceeds the limit "([^"]+)"', message)
    if volume:
        return _volume_full(scene, volume[1], volume[2], message)
    own = re.search(r"(?:ephemeral storage limit|total limit of containers) \"?([0-9.]+\w*)", message)
    if own:
        return Diagnosis(
            code="EVICTED_DISK", summary=f"its container wrote more to its own disk than its limit of {own[1]}",
            detail=message, node=node,
            resolution="raise steps.NAME.resources.limits.ephemeral-storage; results belong to /workspace",
        )  # fmt: skip
    low = re.search(r"low on resource: \[?([\w.-]+)", message) or re.search(r"had condition: \[?(\w+)", message)
    what = (low[1] if low else message).lower()
    if re.search(r"storage|disk|inodes|nodefs|imagefs|containerfs", what):
        return _told(scene, "EVICTED_DISK", f"the node {node} ran out of disk", message)
    if "memory" in what:
        request = ((container(scene.pod).get("resources") or {}).get("requests") or {}).get("memory", "none")
        return _told(
            scene, "EVICTED_MEM", f"the node {node} ran out of memory (it asked for {request})", message,
            "nothing now: it is replaced, uncounted; a memory request near what it uses prevents it "
            "(steps.NAME.resources.requests.memory)",
        )  # fmt: skip
    if "pid" in what:
        return _told(scene, "EVICTED", f"the node {node} ran out of process ids", message)
    return _told(scene, "EVICTED", f"its node {node} ran out of something and evicted it", message)


def _volume_full(scene: Scene, name: str, limit: str, message: str) -> Diagnosis:
    volumes = scene.pod.get("spec", {}).get("volumes") or []
    medium = next(((v.get("emptyDir") or {}).get("medium") for v in volumes if v.get("name") == name), "")
    setting = {"tmp": "tmpSize", "shm": "shmSize"}.get(name, f"the size of {name}")
    return Diagnosis(
        code="EVICTED_MEM" if medium == "Memory" else "EVICTED_DISK",
        summary=f"its volume {name} grew over its limit of {limit}", detail=message, node=node_of(scene.pod),
        resolution=f"raise steps.NAME.{setting}" if name in ("tmp", "shm") else f"raise {setting}",
    )  # fmt: skip


def _told(scene: Scene, code: str, summary: str, message: str, resolution: str = _REPLACED) -> Diagnosis:
    end = ending(scene.pod) or {}
    if end.get("exitCode") == ExitCode.INTERRUPTED:
        summary += f"; {termination_message(scene.pod).get('message') or 'a checkpoint is saved'}"
    elif end.get("exitCode") == 0:
        summary += "; it ended with 0 but published nothing, which is no success"
    return Diagnosis(code=code, summary=summary, detail=message, node=node_of(scene.pod), resolution=resolution)
