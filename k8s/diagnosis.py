"""Why a step failed or does not start: a pure function from a Job and its pods to what was found and what to do.

Read in this order, the most decisive first: the Job's own verdict, how its containers ended, the conditions of its
pods, what they wait for.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jobs.contract.errors import ExitCode

Object = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """What is the matter with a step."""

    code: str
    summary: str
    detail: str = ""
    resolution: str = ""
    fatal_after_s: float | None = None
    """Not going to get better: give up when it has lasted this long. None: wait."""
    node: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return what the status holds."""
        return {key: value for key, value in asdict(self).items() if value not in ("", None)}


IMAGE_GRACE_S = 120.0
_PERMANENT = re.compile(
    r"not found|unauthorized|denied|manifest unknown|no match for platform|invalid reference|NeverPull"
    r"|not present with pull policy", re.IGNORECASE,
)  # fmt: skip
_DISRUPTIONS = {
    "Preemption": ("PREEMPTED", "it made room for a more important pod"),
    "EvictionByEvictionAPI": ("DRAINED", "its node was drained"),
    "DeletionByTaintManager": ("NODE_LOST", "its node was tainted or lost"),
    "DeletionByPodGC": ("NODE_LOST", "its node is gone"),
    "TerminationByKubelet": ("EVICTED", "its node ran out of something or shut down"),
}


def diagnose(job: Object, pods: Sequence[Object]) -> Diagnosis | None:
    """Return what is wrong with a step, None where nothing is. `pods` are the Job's, the newest last."""
    if not pods:
        return _job_alone(job)
    pod = pods[-1]
    found = _ended(pod) or _disrupted(pod) or _waiting(pod) or _unscheduled(pod)
    if found is None or found.code in ("INTERRUPTED_SAVED",):
        return found or _job_alone(job)
    return found


def _job_alone(job: Object) -> Diagnosis | None:
    failed = condition(job, "Failed") or condition(job, "FailureTarget")
    if failed is None:
        return None
    reason, message = failed.get("reason", ""), failed.get("message", "")
    if reason == "DeadlineExceeded":
        return Diagnosis(code="DEADLINE", summary="it did not start or end in time", detail=message)
    return Diagnosis(code="FAILED", summary=f"the Job failed ({reason})", detail=message)


def _ended(pod: Object) -> Diagnosis | None:
    """Diagnose a container that has ended by itself or was killed."""
    node = pod.get("spec", {}).get("nodeName", "")
    if pod.get("status", {}).get("reason") == "UnexpectedAdmissionError":
        return Diagnosis(
            code="GPU_NODE_BAD", summary=f"the node {node} cannot hand out the device", node=node,
            detail=pod["status"].get("message", ""),
            resolution="cordon the node and look at its device plugin (Xid, ECC); other nodes take the step",
        )  # fmt: skip
    ended = terminated(pod)
    if ended is None or (ended.get("exitCode") == 0 and ended.get("reason") != "OOMKilled"):
        return None
    said = termination_message(pod)
    text = said.get("message") or ended.get("message", "").strip()[-600:]
    code = ended.get("exitCode")
    if ended.get("reason") == "OOMKilled" or "out of memory: limit" in text:
        limit = container(pod).get("resources", {}).get("limits", {}).get("memory", "none")
        return Diagnosis(
            code="OOM_CONTAINER", summary=f"out of memory (limit {limit})", detail=text, node=node,
            resolution="raise steps.NAME.resources.limits.memory, or lower batch_size or max_length",
        )  # fmt: skip
    if code == ExitCode.INTERRUPTED:
        return Diagnosis(code="INTERRUPTED_SAVED", summary="stopped; a checkpoint is saved", detail=text, node=node)
    name = ExitCode(code).name if code in set(ExitCode) else ""
    return Diagnosis(
        code=f"APP_{name or code}", summary=text or f"exit code {code}", node=node,
        detail=str(said.get("log", ""))[-1200:], resolution=_ADVICE.get(int(code or 0), ""),
    )  # fmt: skip


_ADVICE = {
    2: "correct the arguments under steps.NAME.args",
    3: "the result is published, but below the gate you set",
    64: "correct the values",
    65: "correct the data",
    66: "run the step that makes the missing folder, or correct the path",
    69: "check the network policy and the remote service; it is tried again",
    70: "it is tried again; the log has the traceback",
    71: "lower the learning rate or the batch size",
    74: "check space and permissions of the volume (uid, gid, fsGroup)",
    77: "check the Secret that steps.NAME.secrets names",
    78: "this image or node cannot run the step: check drivers and architecture",
}


def _disrupted(pod: Object) -> Diagnosis | None:
    target = condition(pod, "DisruptionTarget")
    if target is None or target.get("status") != "True":
        return None
    reason, message = target.get("reason", ""), target.get("message", "")
    for prefix, (code, why) in _DISRUPTIONS.items():
        if reason.startswith(prefix):
            return Diagnosis(
                code=code, summary=why, detail=message, node=pod.get("spec", {}).get("nodeName", ""),
                resolution="nothing: it is replaced, uncounted, and goes on from its last checkpoint",
            )  # fmt: skip
    return Diagnosis(code="DISRUPTED", summary=reason, detail=message)


def _waiting(pod: Object) -> Diagnosis | None:
    """Diagnose a container that cannot start."""
    waiting = next((s["state"]["waiting"] for s in _statuses(pod) if s.get("state", {}).get("waiting")), None)
    if waiting is None:
        return None
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    image = container(pod).get("image", "")
    if reason in ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"):
        permanent = reason in ("InvalidImageName", "ErrImageNeverPull") or _PERMANENT.search(message)
        return Diagnosis(
            code="IMAGE_PERMANENT" if permanent else "IMAGE_TRANSIENT",
            summary=f"the image {image} cannot be pulled", detail=message,
            resolution="check registry, tag, digest and image.pullSecrets; for a local cluster `make images-load`",
            fatal_after_s=IMAGE_GRACE_S if permanent else None,
        )  # fmt: skip
    if reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
        return Diagnosis(
            code="CONFIG", summary=f"the container cannot be made: {message}",
            resolution="make the Secret or key that it names", fatal_after_s=600.0,
        )  # fmt: skip
    return None


def _unscheduled(pod: Object) -> Diagnosis | None:
    scheduled = condition(pod, "PodScheduled")
    if scheduled is None or scheduled.get("status") != "False":
        return None
    message = scheduled.get("message", "")
    hint = "wait for the autoscaler, or compare selectors, requests and taints with the nodes: `aios jobs doctor`"
    if "PersistentVolumeClaim" in message or "persistentvolumeclaim" in message:
        hint = "make the claim (charts/platform), and see that its class can serve it: `kubectl describe pvc`"
    wanted = _wanted(pod)
    summary = f"no node takes the pod: it needs {wanted}" if wanted else "no node takes the pod"
    return Diagnosis(code="UNSCHEDULABLE", summary=summary, detail=message, resolution=hint)


def _wanted(pod: Object) -> str:
    """Return what not every node has, of what a pod asks for: labels, and devices such as nvidia.com/gpu."""
    labels = [f"the label {key}={value}" for key, value in (pod.get("spec", {}).get("nodeSelector") or {}).items()]
    limits = container(pod).get("resources", {}).get("limits", {})
    devices = [f"{amount} {name}" for name, amount in limits.items() if "/" in name]
    return " and ".join([*labels, *devices])


# What objects say
def condition(thing: Object, kind: str) -> dict[str, Any] | None:
    """Return a condition of a Job or pod by its type."""
    for entry in thing.get("status", {}).get("conditions") or []:
        if entry.get("type") == kind:
            return dict(entry)
    return None


def is_true(thing: Object, kind: str) -> bool:
    """Tell whether a condition is there and true."""
    found = condition(thing, kind)
    return found is not None and found.get("status") == "True"


def _statuses(pod: Object) -> list[dict[str, Any]]:
    status = pod.get("status", {})
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def container(pod: Object) -> dict[str, Any]:
    """Return the step's container as the pod specifies it."""
    return dict(next(iter(pod.get("spec", {}).get("containers") or [{}])))


def terminated(pod: Object) -> dict[str, Any] | None:
    """Return how the pod's container ended; None while it has not."""
    for status in _statuses(pod):
        if status.get("state", {}).get("terminated"):
            return dict(status["state"]["terminated"])
    return None


def termination_message(pod: Object) -> dict[str, Any]:
    """Return what the supervisor left as the pod's last message; empty where it is not its JSON."""
    ended = terminated(pod)
    try:
        document = json.loads(ended["message"]) if ended and ended.get("message") else {}
    except json.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def seconds(stamp: str | None) -> float | None:
    """Turn an API timestamp into seconds since the epoch."""
    if not stamp:
        return None
    return datetime.datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()
