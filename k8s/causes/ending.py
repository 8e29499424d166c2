"""Why a pod ended, or will not: exit code, memory, eviction, disruption, deletion; what is wrong while it runs."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from typing import Any

from jobs.contract.errors import ExitCode
from k8s.causes.devices import device_fault
from k8s.causes.diagnosis import DECISIVE, Diagnosis, Scene, said_text
from k8s.causes.kubelet import REJECTIONS, kubelet_ended
from k8s.causes.memory import memory_used_up, out_of_memory
from k8s.causes.running import node_ready
from k8s.objects import (
    condition,
    container,
    ending,
    name_of,
    node_of,
    proven,
    seconds,
    termination_message,
)

ZOMBIE_S = 120.0
"""How long after its grace period a pod may still be there."""
_JOB_FINALIZER = "batch.kubernetes.io/job-tracking"
_REPLACED = "nothing: it is replaced, uncounted, and goes on from its last checkpoint"
_DISRUPTIONS = {
    "PreemptionBy": ("PREEMPTED", "it made room for a more important pod"),
    "EvictionByEvictionAPI": ("DRAINED", "its node was drained, or somebody evicted it"),
    "DeletionByTaintManager": ("NODE_LOST", "its node was lost or tainted"),
    "DeletionByDeviceTaintManager": ("GPU_NODE_BAD", "its device was tainted"),
    "DeletionByPodGC": ("NODE_LOST", "its node is gone"),
}
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
    137: "it is tried again; if it recurs, look at the node's memory and its kernel log (`kubectl describe node`)",
    143: "it is tried again; if it recurs, find out who ends it",
}
_GPU_MEMORY = re.compile(r"(CUDA|GPU|HIP|device)\b.{0,30}out of memory", re.IGNORECASE)


def zombie(scene: Scene) -> Diagnosis | None:
    """Diagnose a pod that should be gone and is not: its Job waits for it, and no replacement will come."""
    pod, metadata = scene.pod, scene.pod.get("metadata", {})
    due = seconds(metadata.get("deletionTimestamp"))
    if due is None or scene.now < due + ZOMBIE_S:
        return None
    name, node, since = name_of(pod), node_of(pod), str(metadata.get("deletionTimestamp"))
    others = [f for f in metadata.get("finalizers") or [] if f != _JOB_FINALIZER]
    if scene.status.get("phase") in ("Succeeded", "Failed"):
        if not others:
            return None
        return Diagnosis(
            code="ZOMBIE_TERMINATING", node=node, summary=f"the pod {name} has ended, but {', '.join(others)} holds it",
            detail=f"due to be gone since {since}; finalizers: {', '.join(others)}",
            resolution=f"whoever set the finalizer must take it away: kubectl edit pod {name}",
        )  # fmt: skip
    space = f" -n {metadata['namespace']}" if metadata.get("namespace") else ""
    ready = node_ready(scene)
    state = {True: "answers, but cannot end it", False: "does not answer", None: "probably does not answer"}[ready]
    return Diagnosis(
        code="ZOMBIE_TERMINATING", node=node,
        summary=f"the pod {name} should be gone since {since}; its node {node} {state}",
        detail="no replacement comes before it is gone: two pods must never write one folder, so Kubernetes waits "
        "until the node says that this one has ended",
        resolution=f"kubectl get node {node}; when that machine is surely off: kubectl taint nodes {node} "
        "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute; or `aios jobs resume RUN --force`, that is: kubectl "
        f'patch pod {name}{space} -p \'{{"metadata":{{"finalizers":null}}}}\' && kubectl delete pod {name}{space} '
        "--grace-period=0 --force",
    )  # fmt: skip


def rejected(scene: Scene) -> Diagnosis | None:
    """Diagnose a pod that its kubelet refused, evicted or ended: `status.reason` says so."""
    reason, message = (scene.status.get("reason") or ""), (scene.status.get("message") or "")
    if not reason or proven(scene.pod):
        return None
    end = ending(scene.pod)
    if end is not None and end.get("exitCode") in DECISIVE and reason != "UnexpectedAdmissionError":
        return None
    if reason == "DeadlineExceeded":
        limit = scene.pod.get("spec", {}).get("activeDeadlineSeconds")
        saved = "; a checkpoint is saved" if end and end.get("exitCode") == ExitCode.INTERRUPTED else ""
        return Diagnosis(
            code="DEADLINE", summary=f"it ran longer than its {limit} s{saved}" if limit else f"it ran too long{saved}",
            detail=message, node=node_of(scene.pod), resolution="raise steps.NAME.activeDeadlineSeconds",
        )  # fmt: skip
    return kubelet_ended(scene, reason, message) if reason in REJECTIONS or reason.startswith("OutOf") else None


def ended(scene: Scene) -> Diagnosis | None:
    """Diagnose a container that has ended: what it said itself, memory, its exit code."""
    end = ending(scene.pod)
    if end is None or proven(scene.pod):
        return None
    said, code = termination_message(scene.pod), int(end.get("exitCode") or 0)
    if out_of_memory(scene, end, said):
        return memory_used_up(scene, end, said)
    text, node = said_text(end, said), node_of(scene.pod)
    if said.get("cause") == "node_memory":
        return Diagnosis(
            code="EVICTED_MEM", summary=f"the node {node} ran out of memory, its kernel chose the step", detail=text,
            node=node, resolution="it is tried again; ask for as much memory as the step uses "
            "(steps.NAME.resources.requests.memory)",
        )  # fmt: skip
    device = device_fault(scene, code, f"{text} {said.get('log', '')}", str(said.get("cause", "")))
    if device is not None:
        return device
    if end.get("reason") in ("StartError", "ContainerCannotRun"):
        from k8s.causes.starting import cannot_run

        return cannot_run(scene, str(end.get("message") or ""))
    if "exec format error" in text:
        from k8s.causes.starting import cannot_run

        return cannot_run(scene, text)
    disrupted_too = _disruption(scene) is not None
    if end.get("reason") == "ContainerStatusUnknown" and not disrupted_too:
        return Diagnosis(
            code="NODE_LOST", summary=f"its node {node} restarted or lost track of the container", node=node,
            detail=text, resolution="nothing: it is tried again from the last checkpoint",
        )  # fmt: skip
    # Ended by what befell the pod: the causes below this one tell more.
    swept_away = disrupted_too or (_deleted_at(scene) is not None and code in (0, 1, 137, 143))
    if swept_away and code not in DECISIVE and not (code == ExitCode.DIVERGED and said):
        return None
    return _by_code(scene, end, said, code, text)


def _by_code(scene: Scene, end: Mapping[str, Any], said: Mapping[str, Any], code: int, text: str) -> Diagnosis:
    node = node_of(scene.pod)
    if code == ExitCode.INTERRUPTED:
        return Diagnosis(
            code="INTERRUPTED_SAVED", summary="stopped; a checkpoint is saved", detail=text, node=node,
            resolution="nothing: the next attempt goes on from it",
        )  # fmt: skip
    if said.get("cause") == "hung":
        return Diagnosis(
            code="HUNG", summary=text or "it made no progress any more and was ended", node=node,
            detail=str(said.get("log", ""))[-1200:],
            resolution="it is tried again from the last checkpoint; the attempt's stdout.log has every thread's stack",
        )  # fmt: skip
    if code == ExitCode.DIVERGED and (said.get("cause") in ("device_memory", "cuda_oom") or _GPU_MEMORY.search(text)):
        return Diagnosis(
            code="OOM_GPU", summary="the GPU's memory is exhausted", detail=text, node=node,
            resolution="halve batch_size and double gradient_accumulation, then gradient_checkpointing, a smaller "
            "max_length, LoRA",
        )  # fmt: skip
    if code == 0:
        return Diagnosis(
            code="APP_UNPROVEN", summary="its pod ended with 0 but did not say what it published", node=node,
            detail=text, resolution="exit 0 alone proves nothing; see the log, then `aios jobs resume RUN`",
        )  # fmt: skip
    found = by_exit_code(code, text)
    beside = f"the container {end['container']}: " if end.get("container") not in ("step", None, "") else ""
    own = container(scene.pod).get("name")
    summary = found.summary if not beside or end.get("container") == own else beside + found.summary
    return found.told(summary=summary, node=node, detail=str(said.get("log", ""))[-1200:] or found.detail)


def by_exit_code(code: int, text: str) -> Diagnosis:
    """Return the diagnosis of an exit code alone."""
    if code == ExitCode.INTERRUPTED:
        return Diagnosis(code="INTERRUPTED_SAVED", summary="stopped; a checkpoint is saved", detail=text)
    name = ExitCode(code).name if code in set(ExitCode) else str(code)
    number = code - 128
    ended_by = f" ({signal.Signals(number).name})" if code > 128 and number in set(signal.Signals) else ""
    lines = text.strip().splitlines()
    summary = lines[-1].strip()[:600] if lines else f"exit code {code}{ended_by}"
    if ended_by:
        summary = f"exit code {code}{ended_by}" + (f": {lines[-1].strip()[:400]}" if lines else "")
    detail = text if len(lines) > 1 else ""
    return Diagnosis(code=f"APP_{name}", summary=summary, detail=detail, resolution=_ADVICE.get(code, _ADVICE[70]))


# What befell the pod
def _disruption(scene: Scene) -> Mapping[str, Any] | None:
    target = condition(scene.pod, "DisruptionTarget")
    return target if target is not None and target.get("status") == "True" else None


def _deleted_at(scene: Scene) -> float | None:
    return seconds(scene.pod.get("metadata", {}).get("deletionTimestamp"))


def disrupted(scene: Scene) -> Diagnosis | None:
    """Diagnose a pod that was in the way of something: never counted, replaced, resumed."""
    target = _disruption(scene)
    if target is None or proven(scene.pod):
        return None
    reason, message = str(target.get("reason") or ""), str(target.get("message") or "")
    if reason == "TerminationByKubelet":
        return kubelet_ended(scene, scene.status.get("reason") or "Evicted", scene.status.get("message") or message)
    node, end, said = node_of(scene.pod), ending(scene.pod) or {}, termination_message(scene.pod)
    saved = f"; {said.get('message') or 'a checkpoint is saved'}" if end.get("exitCode") == ExitCode.INTERRUPTED else ""
    unproven = "; it ended with 0 but published nothing, which is no success" if end.get("exitCode") == 0 else ""
    for prefix, (code, why) in _DISRUPTIONS.items():
        if reason.startswith(prefix):
            return Diagnosis(
                code=code, summary=f"{why}{saved}{unproven}", detail=message, node=node, resolution=_REPLACED
            )
    return Diagnosis(code="DRAINED", summary=f"it was disrupted ({reason}){saved}{unproven}", detail=message, node=node,
                     resolution=_REPLACED)  # fmt: skip


def deleted(scene: Scene) -> Diagnosis | None:
    """Diagnose a pod that somebody deleted."""
    node, phase = node_of(scene.pod), scene.status.get("phase")
    if proven(scene.pod):
        return None
    if phase == "Unknown" or scene.status.get("reason") == "NodeLost":
        return Diagnosis(
            code="NODE_LOST", summary=f"its node {node} does not answer", node=node,
            detail=scene.status.get("message") or "", resolution="it is replaced when the node is back or was removed",
        )  # fmt: skip
    if _deleted_at(scene) is None:
        return None
    return Diagnosis(
        code="USER_DELETED", summary=f"somebody deleted the pod {name_of(scene.pod)}", node=node,
        resolution="nothing: it counts as a failure unless it saved and ended with 75; the next attempt goes on from "
        "the last checkpoint",
    )  # fmt: skip
