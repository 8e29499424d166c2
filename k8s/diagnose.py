"""Why a step failed or does not start: a pure function from API objects to what was found and what to do.

What is read, the most decisive first: what the conductor wrote when it gave the step up, the Job's own verdict, how
containers ended, what befell the pod (evicted, preempted, drained, its node lost), what it waits for, where no node
takes it, and events last: they are never trusted against a status. Of several pods (a gang) the most decisive one
speaks; of equals, the one that fell first.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jobs.contract.errors import ExitCode
from k8s.causes import ending, refused, running, scheduling, starting
from k8s.causes.diagnosis import KEPT_EVENTS, Diagnosis, Scene
from k8s.cluster import names
from k8s.objects import Object, annotation, condition, event_line, events_of, is_true, label, name_of, seconds

__all__ = ["Diagnosis", "diagnose", "diagnose_pod"]

_FINDERS: tuple[Callable[[Scene], Diagnosis | None], ...] = (
    ending.zombie, ending.rejected, ending.ended, ending.disrupted, ending.deleted,
    starting.cannot_start, scheduling.unscheduled, running.unwell,
)  # fmt: skip
_RANK = (
    "OOM_CONTAINER", "OOM_GPU", "GPU_NODE_BAD", "EVICTED_DISK", "EVICTED_MEM", "EVICTED", "PREEMPTED", "DRAINED",
    "NODE_LOST", "IMAGE_PERMANENT", "CONFIG", "ZOMBIE_TERMINATING", "DEADLINE", "HUNG", "APP_", "USER_DELETED",
    "INTERRUPTED_SAVED", "IMAGE_TRANSIENT", "UNSCHEDULABLE", "QUEUED_KUEUE",
)  # fmt: skip
_OWN_FAULTS = tuple(f"APP_{ExitCode(code).name}" for code in (2, 3, 64, 65, 66, 71, 74, 77, 78))


def diagnose(
    job: Object,
    pods: Sequence[Object],
    *,
    events: Sequence[Object] = (),
    nodes: Sequence[Object] = (),
    claims: Sequence[Object] = (),
    workloads: Sequence[Object] = (),
    recorded: Sequence[Mapping[str, Any]] = (),
    now: float | None = None,
) -> Diagnosis | None:
    """Return what is wrong with a step, None where nothing is.

    Args:
        job: of the step.
        pods: of this Job.
        events: of the namespace; those about the Job, its pods and claims are taken.
        nodes: the cluster's, where they may be read: names what the nearest one lacks.
        claims: PersistentVolumeClaims that the pods mount.
        workloads: Kueue's, of this Job.
        recorded: the attempts that the status remembers, for pods that are gone.
        now: seconds since the epoch; the present where absent.
    """
    found = _found(job, pods, events, nodes, claims, workloads, recorded, time.time() if now is None else now)
    if found is None:
        return None
    words = {"NAME": label(job, names.STEP), "RUN": label(job, names.RUN)}
    return found.told(resolution=re.sub(r"\b(NAME|RUN)\b", lambda m: words[m[1]] or m[1], found.resolution))


def diagnose_pod(pod: Object, events: Sequence[Object] = (), now: float | None = None) -> Diagnosis | None:
    """Return what one pod died of or suffers from, whatever became of its Job."""
    return _of_pods({}, [pod], events, (), (), time.time() if now is None else now)


def _found(
    job: Object, pods: Sequence[Object], events: Sequence[Object], nodes: Sequence[Object], claims: Sequence[Object],
    workloads: Sequence[Object], recorded: Sequence[Mapping[str, Any]], now: float,
) -> Diagnosis | None:  # fmt: skip
    given_up = annotation(job, names.GIVEN_UP)
    if given_up:
        return _remembered(given_up)
    ranked = sorted(pods, key=lambda pod: (pod.get("metadata", {}).get("creationTimestamp") or "", name_of(pod)))
    found = _of_pods(job, ranked, events, nodes, claims, now)
    if (_verdict(job) or {}).get("reason") == "DeadlineExceeded":
        late = _job_alone(job, ranked, recorded)
        return late.told(evidence=found.evidence, pod=found.pod, node=found.node) if late and found else late
    if found is None or (found.code in ("INTERRUPTED_SAVED", "USER_DELETED") and _has_failed(job)):
        alone = _job_alone(job, ranked, recorded)
        found = alone if alone is not None else found
    if found is not None and found.code == "USER_DELETED" and job.get("spec", {}).get("suspend"):
        return None  # a suspended Job deletes its pods itself
    if found is None and not _current(job, ranked):
        found = _queued(job, workloads) or refused.not_made(job, events, now) or _vanished(job, recorded)
    return found


def _of_pods(
    job: Object, pods: list[Object], events: Sequence[Object], nodes: Sequence[Object], claims: Sequence[Object],
    now: float,
) -> Diagnosis | None:  # fmt: skip
    found = []
    for pod in _current(job, pods):
        scene = Scene(pod=pod, events=events_of(pod, events), all_events=events, nodes=nodes, claims=claims, now=now)
        diagnosis = next((d for finder in _FINDERS if (d := finder(scene)) is not None), None)
        if diagnosis is not None:
            lines = tuple(event_line(event) for event in scene.events[-KEPT_EVENTS:])
            found.append((_rank(diagnosis), _ended_at(pod, now), diagnosis.told(pod=name_of(pod), evidence=lines)))
    return min(found, key=lambda entry: entry[:2])[2] if found else None


def _current(job: Object, pods: list[Object]) -> list[Object]:
    """Return the pods that speak for the Job: the newest of each index, or the one that the Job's verdict names."""
    blamed = _blamed(job)
    if any(name_of(pod) == blamed for pod in pods):
        return [pod for pod in pods if name_of(pod) == blamed]
    newest = {_index(pod): pod for pod in pods}
    return list(newest.values())


def _index(pod: Object) -> str:
    key = "batch.kubernetes.io/job-completion-index"
    return label(pod, key) or annotation(pod, key)


def _rank(diagnosis: Diagnosis) -> int:
    if diagnosis.code in _OWN_FAULTS:
        return 0  # the step's own word about its input: nothing that happened beside it changes that
    return next((i for i, code in enumerate(_RANK, start=1) if diagnosis.code.startswith(code)), len(_RANK))


def _ended_at(pod: Object, now: float) -> float:
    found = pod.get("status", {}).get("containerStatuses") or []
    ends = [(status.get("state") or {}).get("terminated") or {} for status in found]
    stamps = [at for end in ends if (at := seconds(end.get("finishedAt"))) is not None]
    return min(stamps, default=now)


# The Job's own verdict
def _verdict(job: Object) -> dict[str, Any] | None:
    for kind in ("Failed", "FailureTarget"):
        if is_true(job, kind):
            return condition(job, kind)
    return None


def _has_failed(job: Object) -> bool:
    return _verdict(job) is not None


def _blamed(job: Object) -> str:
    """Return the pod that a PodFailurePolicy verdict names: "Container step for pod NS/NAME failed with..."."""
    match = re.search(r"for pod [^/ ]+/(\S+) failed", (_verdict(job) or {}).get("message", "") or "")
    return match[1] if match else ""


def _job_alone(job: Object, pods: list[Object], recorded: Sequence[Mapping[str, Any]]) -> Diagnosis | None:
    failed = _verdict(job)
    if failed is None:
        return None
    reason, message = (failed.get("reason") or ""), (failed.get("message") or "")
    if reason == "DeadlineExceeded":
        limit = job.get("spec", {}).get("activeDeadlineSeconds")
        return Diagnosis(
            code="DEADLINE", summary=f"it did not end within {limit} s" if limit else "it did not end in time",
            detail=message, resolution="raise steps.NAME.activeDeadlineSeconds, and `aios jobs resume RUN`",
        )  # fmt: skip
    match = re.search(r"failed with exit code (\d+)", message)
    if match:
        return ending.by_exit_code(int(match[1]), message)
    for attempt in reversed(recorded):
        if attempt.get("exit_code") or attempt.get("code"):
            return _from_record(attempt, message)
    return Diagnosis(
        code="FAILED", summary=f"its Job failed ({reason}), and its pods are gone", detail=message,
        resolution="see artifacts/runs/RUN/steps/STEP on the volume, then `aios jobs resume RUN`",
    )  # fmt: skip


def _from_record(attempt: Mapping[str, Any], message: str) -> Diagnosis:
    if attempt.get("code") and not str(attempt["code"]).startswith("APP_"):
        return Diagnosis(code=str(attempt["code"]), summary=str(attempt.get("summary") or message), detail=message)
    found = ending.by_exit_code(int(attempt.get("exit_code") or 70), message)
    return found.told(summary=str(attempt.get("message") or found.summary), pod=str(attempt.get("pod", "")))


def _remembered(text: str) -> Diagnosis:
    try:
        return Diagnosis.from_json(json.loads(text))
    except (ValueError, TypeError, KeyError):
        return Diagnosis(code="DEADLINE", summary="it was given up before it started", detail=text[:500])


# A Job without pods
def _queued(job: Object, workloads: Sequence[Object]) -> Diagnosis | None:
    """Diagnose a step that waits in a Kueue queue: not a failure, but somebody waits for it."""
    queue = label(job, names.KUEUE_LABEL)
    if not (queue and job.get("spec", {}).get("suspend")) or _has_failed(job):
        return None
    advice = f"wait, or ask who owns the queue: `kubectl get workloads`, `kubectl describe localqueue {queue}`"
    mine = [w for w in workloads if _owner_uid(w) in (None, job.get("metadata", {}).get("uid"))]
    if not mine:
        summary = f"it waits in the Kueue queue {queue}"
        return Diagnosis(code="QUEUED_KUEUE", summary=summary, resolution=advice)
    workload = max(mine, key=lambda w: w.get("metadata", {}).get("creationTimestamp") or "")
    reserved, evicted = condition(workload, "QuotaReserved") or {}, condition(workload, "Evicted") or {}
    if reserved.get("status") == "True" and evicted.get("status") != "True":
        return None
    priority = workload.get("spec", {}).get("priority")
    summary = f"it waits in the Kueue queue {queue}" + (f" with priority {priority}" if priority is not None else "")
    if evicted.get("status") == "True":
        summary = f"Kueue took its quota away ({evicted.get('reason', '')}); {summary} again"
    if workload.get("spec", {}).get("active") is False:
        summary, advice = f"its Workload in the queue {queue} was deactivated", "somebody set spec.active: false on it"
    detail = reserved.get("message") or (evicted.get("message") or "")
    return Diagnosis(code="QUEUED_KUEUE", summary=summary, detail=detail, resolution=advice)


def _owner_uid(workload: Object) -> str | None:
    owners = workload.get("metadata", {}).get("ownerReferences") or []
    return next((str(o["uid"]) for o in owners if o.get("uid")), None)


def _vanished(job: Object, recorded: Sequence[Mapping[str, Any]]) -> Diagnosis | None:
    """Diagnose a pod that we knew, that never said how it ended, and that is gone: somebody deleted it by force."""
    if job.get("spec", {}).get("suspend") or is_true(job, "Complete") or not recorded:
        return None
    last = recorded[-1]
    if "exit_code" in last or last.get("code") or last.get("phase") in ("Succeeded", "Failed"):
        return None
    return Diagnosis(
        code="USER_DELETED", summary=f"the pod {last.get('pod')} is gone without a last word: somebody deleted it",
        resolution="nothing: it counts as a failure and is tried again from the last checkpoint",
        pod=str(last.get("pod", "")), node=str(last.get("node", "")),
    )  # fmt: skip
