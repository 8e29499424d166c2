"""Where a step stands, from its Job and pods as the API has them, and from what it had before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from k8s import repair
from k8s.cluster import names
from k8s.cluster.client import Object
from k8s.conductor import Phase, StepState
from k8s.diagnose import Diagnosis, diagnose
from k8s.objects import annotation, is_true, label, proven


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """A step as its Job and pods show it."""

    phase: Phase
    job: Object | None
    pods: tuple[Object, ...] = ()
    """Those that are there, the oldest first."""
    gone: tuple[Object, ...] = ()
    """Those that were deleted, as they were last."""
    diagnosis: Diagnosis | None = None
    message: str = ""

    def state(self, needs: tuple[str, ...]) -> StepState:
        """Return what the conductor's pure function takes."""
        if self.job is None:
            return StepState(phase=self.phase, needs=needs)
        newest = max([*self.pods, *self.gone], key=_age, default=None)
        failed = newest if newest is not None and newest.get("status", {}).get("phase") == "Failed" else None
        held = self.phase is Phase.RUNNING and repair.pending(self.job) is not None
        return StepState(
            phase=self.phase,
            needs=needs,
            ailing=self.phase is Phase.RUNNING and repair.wanted(self.job, self.diagnosis, failed) is not None,
            held=held,
            quiet=not any(writing(pod) for pod in self.pods) and not self.job.get("status", {}).get("active"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """What a diagnosis may need besides Job and pods."""

    gone: Sequence[Object] = ()
    events: Sequence[Object] = ()
    nodes: Sequence[Object] = ()
    claims: Sequence[Object] = ()
    workloads: Sequence[Object] = ()


def observe(
    job: Object | None,
    pods: Sequence[Object],
    recorded: str = "",
    attempts: Sequence[Mapping[str, Any]] = (),
    around: Surroundings | None = None,
    *,
    checked_later: bool = False,
) -> Observed:
    """Return where a step stands.

    Args:
        job: None where it is not there (yet, or any more).
        pods: of this Job.
        recorded: the phase that the status ConfigMap has of it, for a Job that is gone.
        attempts: what the ConfigMap has of its attempts, for pods that are gone.
        around: gone pods, events, nodes, claims, Kueue's workloads.
        checked_later: a later step reads what this one publishes, and refuses what is not whole.
    """
    if job is None:
        ended = recorded in (Phase.SUCCEEDED, Phase.FAILED, Phase.SKIPPED)
        return Observed(phase=Phase(recorded) if ended else Phase.WAITING, job=None)
    around = around or Surroundings()
    pods, gone = tuple(sorted(pods, key=_age)), tuple(sorted(around.gone, key=_age))
    found = diagnose(
        job, [*gone, *pods], events=around.events, nodes=around.nodes, claims=around.claims,
        workloads=around.workloads, recorded=attempts,
    )  # fmt: skip
    phase, message = _phase(job, pods), ""
    if phase is Phase.SUCCEEDED and not _proven([*pods, *gone], recorded, attempts):
        phase, message, found = _unproven([*pods, *gone], found, checked_later)
    if phase in (Phase.SUCCEEDED, Phase.WAITING):
        found = None
    return Observed(phase=phase, job=job, pods=pods, gone=gone, diagnosis=found, message=message)


def _age(pod: Object) -> tuple[str, str]:
    return pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]


def _phase(job: Object, pods: Sequence[Object]) -> Phase:
    if is_true(job, "Complete"):
        # Our two watches are not in step: wait until the pod's end has arrived too.
        return Phase.RUNNING if any(running(pod) for pod in pods) else Phase.SUCCEEDED
    if is_true(job, "Failed"):
        return Phase.FAILED
    if annotation(job, names.SKIPPED):
        return Phase.SKIPPED
    if job["spec"].get("suspend"):
        stopped = annotation(job, names.STOPPED)
        if stopped:
            # What is still saving has not stopped; what was held for a change waits until `resume`.
            return Phase.RUNNING if any(writing(pod) for pod in pods) else Phase.WAITING
        return Phase.RUNNING if label(job, names.KUEUE_LABEL) or annotation(job, names.MENDING) else Phase.WAITING
    return Phase.RUNNING


def running(pod: Object) -> bool:
    """Tell whether a pod runs, or will, and nobody has asked it to end."""
    over = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    return not over and not pod["metadata"].get("deletionTimestamp")


def completed(pod: Object) -> bool:
    """Tell whether a pod ended with 0: one of those made its Job complete."""
    return bool(pod.get("status", {}).get("phase") == "Succeeded")


def writing(pod: Object) -> bool:
    """Tell whether a pod may still write, be it on its way out."""
    return bool(pod.get("status", {}).get("phase") == "Running")


def _proven(pods: Sequence[Object], recorded: str, attempts: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether a complete Job left its proof: in a pod's last words, now or when they were recorded."""
    written = any(a.get("manifest_sha256") and a.get("exit_code") == 0 for a in attempts)
    return recorded == Phase.SUCCEEDED or written or any(proven(pod) for pod in pods)


def _unproven(
    pods: Sequence[Object], found: Diagnosis | None, checked_later: bool
) -> tuple[Phase, str, Diagnosis | None]:
    """Judge a complete Job without proof: an evicted pod that traps SIGTERM and exits with 0 looks like this, too.

    Where its pods are gone and nobody saw their end (the conductor's node went with them), a step after it is the
    judge, since it verifies what it reads. The last one has no such judge.
    """
    if any(completed(pod) for pod in pods):
        return Phase.FAILED, "its pod ended with 0 but did not say what it published", found
    if checked_later:
        return Phase.SUCCEEDED, "", None
    lost = Diagnosis(
        code="APP_UNPROVEN", summary="its Job is complete, but its pods are gone and nobody saw what they published",
        resolution="`aios jobs resume RUN`: a result that is whole is found and kept, else the step runs again",
    )  # fmt: skip
    return Phase.FAILED, lost.summary, lost


def needs_of(job: Object | None, steps: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the steps that a Job waits for, of those that are there."""
    return tuple(name for name in annotation(job, names.NEEDS).split(",") if name in steps)
