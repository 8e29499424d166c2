"""The conductor in the cluster: watches the run's Jobs, releases what may start, writes the status ConfigMap.

Its whole state is in the API: it reads Jobs and pods, patches the run's own Jobs and one ConfigMap, and may die
anywhere. A release carries the resourceVersion of the Job that it was decided on, so a conductor that is late, doubled
or mistaken about the present is refused by the API server (409) and decides anew.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

from jobs.contract.errors import AiosError, NotAuthorised
from k8s.cluster import names
from k8s.cluster.client import Api, ApiError, Object, find
from k8s.cluster.config import connect
from k8s.cluster.mirror import Mirror
from k8s.conductor import Outcome, Phase, StepState, decide
from k8s.diagnose import Diagnosis, diagnose
from k8s.objects import is_true, seconds, terminated, termination_message

_LOG = logging.getLogger("aios")
_IDLE_S = 10.0
_GONE_GRACE_S = 30.0
_MAX_ATTEMPTS = 10
FAILED_RUN = 1
"""Exit code of a conductor whose run has failed; the chart's podFailurePolicy ends its Job then."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """A step as its Job and pods show it."""

    phase: Phase
    job: Object | None
    pods: tuple[Object, ...] = ()
    diagnosis: Diagnosis | None = None
    message: str = ""


def observe(job: Object | None, pods: list[Object], recorded: str = "") -> Observed:
    """Return where a step stands.

    Args:
        job: None where it is not there (yet, or any more).
        pods: of this Job.
        recorded: the phase that the status ConfigMap has of it, for a Job that is gone.
    """
    if job is None:
        return Observed(phase=Phase.SUCCEEDED if recorded == "succeeded" else Phase.WAITING, job=None)
    pods = sorted(pods, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))
    found = diagnose(job, pods)
    phase, message = _phase(job, pods), ""
    if phase is Phase.SUCCEEDED and not _proven(pods):
        phase, message = Phase.FAILED, "its pod ended with 0 but did not say what it published"
    if phase in (Phase.SUCCEEDED, Phase.WAITING):
        found = None
    return Observed(phase=phase, job=job, pods=tuple(pods), diagnosis=found, message=message)


def _phase(job: Object, pods: list[Object]) -> Phase:
    spec, annotations = job["spec"], job["metadata"].get("annotations") or {}
    if is_true(job, "Complete"):
        # Our two watches are not in step: wait until the pod's end has arrived too.
        return Phase.RUNNING if any(_running(pod) for pod in pods) else Phase.SUCCEEDED
    if is_true(job, "Failed"):
        return Phase.FAILED
    if annotations.get(names.SKIPPED):
        return Phase.SKIPPED
    if spec.get("suspend"):
        if annotations.get(names.STOPPED) and any(_writing(pod) for pod in pods):
            return Phase.RUNNING  # it is still saving: stopped is what has ended
        handed_over = (job["metadata"].get("labels") or {}).get(names.KUEUE_LABEL)
        return Phase.RUNNING if handed_over and not annotations.get(names.STOPPED) else Phase.WAITING
    return Phase.RUNNING


def _running(pod: Object) -> bool:
    over = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    return not over and not pod["metadata"].get("deletionTimestamp")


def _writing(pod: Object) -> bool:
    """Tell whether a pod may still write, be it on its way out."""
    return bool(pod.get("status", {}).get("phase") == "Running")


def _proven(pods: list[Object]) -> bool:
    """Tell whether a complete Job left its proof. Where the pods are gone their supervisor's exit code was it."""
    done = [pod for pod in pods if pod.get("status", {}).get("phase") == "Succeeded"]
    return not done or any(termination_message(pod).get("manifest_sha256") for pod in done)


class Conductor:
    """Conducts one release to its end."""

    def __init__(self, api: Api, release: str, expected: tuple[str, ...], startup_deadline_s: float) -> None:
        self.api, self.release, self.expected = api, release, expected
        self.startup_deadline_s = startup_deadline_s
        self.changed = threading.Event()
        selector = f"{names.INSTANCE}={release},{names.STEP}"
        self.jobs = Mirror(api, api.path("jobs"), selector, self.changed)
        self.pods = Mirror(api, api.path("pods"), selector, self.changed)
        self.status: dict[str, Any] = {}
        self._written = ""
        self._missing_since: dict[str, float] = {}

    def conduct(self) -> Outcome:
        """Work until the run has ended."""
        self.status = read_status(self.api, self.release)
        self.jobs.start()
        self.pods.start()
        while True:
            self.changed.wait(_IDLE_S)
            self.changed.clear()
            for mirror in (self.jobs, self.pods):
                if isinstance(mirror.error, NotAuthorised):
                    raise mirror.error
            if not (self.jobs.ready.is_set() and self.pods.ready.is_set()):
                continue
            try:
                outcome = self.reconcile()
            except AiosError as exc:
                _LOG.warning("%s; trying again", exc)
                time.sleep(1)
                self.changed.set()
                continue
            if outcome in (Outcome.SUCCEEDED, Outcome.FAILED):
                return outcome

    def reconcile(self) -> Outcome | None:
        """Look, decide, act once."""
        jobs, pods = self.jobs.objects, self.pods.objects
        steps = {name: self._observe(name, jobs, pods) for name in self.expected}
        stopped = any(_annotation(seen.job, names.STOPPED) for seen in steps.values())
        states = {name: StepState(phase=seen.phase, needs=needs_of(seen.job, steps)) for name, seen in steps.items()}
        plan = decide(states, stopped=stopped)
        for name in plan.release:
            self._release(steps[name].job)
        for name in plan.skip:
            self._skip(steps[name].job)
        for name, seen in steps.items():
            self._give_up(name, seen)
        self._write_status(steps, plan.skip, plan.outcome, stopped=stopped)
        return plan.outcome

    def _observe(self, name: str, jobs: Mapping[str, Object], pods: Mapping[str, Object]) -> Observed:
        job_name = f"{self.release}-{name}"
        job = jobs.get(job_name)
        mine = [p for p in pods.values() if (p["metadata"].get("labels") or {}).get("job-name") == job_name]
        recorded = self.status.get("steps", {}).get(name, {}).get("phase", "")
        seen = observe(job, mine, recorded)
        if seen.phase is Phase.SUCCEEDED and not mine and recorded != "succeeded":
            # Is its pod gone, or has the watch of pods not come to it yet? It may have proven nothing: ask, this once.
            fresh = self.api.get(self.api.path("pods"), labelSelector=f"job-name={job_name}")
            seen = observe(job, list(fresh["items"]), recorded)
        if job is not None:
            self._missing_since.pop(name, None)
        elif seen.phase is Phase.WAITING:
            # helm may not have made it yet; one that stays away was deleted by somebody.
            since = self._missing_since.setdefault(name, time.monotonic())
            if time.monotonic() - since > _GONE_GRACE_S:
                return Observed(phase=Phase.FAILED, job=None, message="its Job is not there; was it deleted?")
        return seen

    def _release(self, job: Object | None) -> None:
        if job is None:
            return
        metadata: dict[str, Any] = {"resourceVersion": job["metadata"]["resourceVersion"]}
        queue = _annotation(job, names.QUEUE)
        body: dict[str, Any] = {"metadata": metadata}
        if queue:
            metadata["labels"] = {names.KUEUE_LABEL: queue}
        else:
            body["spec"] = {"suspend": False}
        if self._patch(job, body):
            _LOG.info("released %s", job["metadata"]["name"])

    def _skip(self, job: Object | None) -> None:
        if job is not None and not _annotation(job, names.SKIPPED):
            version = job["metadata"]["resourceVersion"]
            note = {names.SKIPPED: "a step before it failed"}
            self._patch(job, {"metadata": {"resourceVersion": version, "annotations": note}})

    def _give_up(self, name: str, seen: Observed) -> None:
        """End a step whose pod cannot start: the Job API has no clock for that, so its deadline is moved to now."""
        if seen.phase is not Phase.RUNNING or not seen.pods or seen.job is None:
            return
        pod = seen.pods[-1]
        if pod.get("status", {}).get("phase") != "Pending" or pod["metadata"].get("deletionTimestamp"):
            return
        patience = self.startup_deadline_s
        if seen.diagnosis and seen.diagnosis.fatal_after_s is not None:
            patience = min(patience, seen.diagnosis.fatal_after_s)
        waited = time.time() - (seconds(pod["metadata"]["creationTimestamp"]) or time.time())
        if waited > patience and self._patch(seen.job, {"spec": {"activeDeadlineSeconds": 1}}):
            _LOG.warning("%s did not start within %.0f s: %s", name, patience, seen.diagnosis)

    def _patch(self, job: Object, body: dict[str, Any]) -> bool:
        try:
            self.api.patch(self.api.path("jobs", job["metadata"]["name"]), body)
        except ApiError as exc:
            if exc.status in (404, 409):
                return False  # it has moved on: its next state is on its way to us
            raise
        return True

    # Status
    def _write_status(
        self, steps: Mapping[str, Observed], skip: tuple[str, ...], outcome: Outcome | None, *, stopped: bool
    ) -> None:
        before = self.status.get("steps", {})
        views = {}
        for name, seen in steps.items():
            phase = Phase.SKIPPED if name in skip else seen.phase
            views[name] = _step_status(phase, seen, before.get(name, {}))
        word = outcome.value if outcome else "running"
        self.status = {"release": self.release, "phase": word, "stopped": stopped, "steps": views}
        text = json.dumps(self.status, indent=1)
        # The last word is written whatever we wrote before: a conductor on a lost node may have written after us.
        if text != self._written or outcome in (Outcome.SUCCEEDED, Outcome.FAILED):
            stamp = json.dumps(self.status | {"updated": time.time()}, indent=1)
            self.api.patch(self.api.path("configmaps", names.status(self.release)), {"data": {"state.json": stamp}})
            self._written = text


def read_status(api: Api, release: str) -> dict[str, Any]:
    """Return what the last conductor wrote about a release."""
    found = find(api, "configmaps", names.status(release)) or {}
    try:
        status: dict[str, Any] = json.loads((found.get("data") or {}).get("state.json", "{}"))
    except json.JSONDecodeError:
        return {}
    return status


def _step_status(phase: Phase, seen: Observed, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return a step's part of the status; what pods said stays after they are gone."""
    attempts = {attempt["pod"]: attempt for attempt in before.get("attempts", [])}
    attempts |= {pod["metadata"]["name"]: _attempt(pod) for pod in seen.pods}
    status: dict[str, Any] = {"phase": phase.value, "attempts": list(attempts.values())[-_MAX_ATTEMPTS:]}
    found = seen.diagnosis or (diagnose(seen.job, seen.pods) if phase is Phase.FAILED and seen.job else None)
    if found is not None:
        status["diagnosis"] = found.to_json()
    elif phase is Phase.FAILED and "diagnosis" in before:
        status["diagnosis"] = before["diagnosis"]
    message = seen.message or (found.summary if found and phase is Phase.FAILED else "")
    return status | ({"message": message} if message else {})


def _attempt(pod: Object) -> dict[str, Any]:
    ended, said = terminated(pod) or {}, termination_message(pod)
    status = pod.get("status", {})
    attempt = {
        "pod": pod["metadata"]["name"],
        "node": pod.get("spec", {}).get("nodeName", ""),
        "phase": status.get("phase", ""),
        "created": pod["metadata"]["creationTimestamp"],
        "started": status.get("startTime"),
        "finished": ended.get("finishedAt"),
        "exit_code": ended.get("exitCode"),
        "state": said.get("state"),
        "message": said.get("message"),
        "manifest_sha256": said.get("manifest_sha256"),
        "log": said.get("log"),
    }
    return {key: value for key, value in attempt.items() if value not in (None, "")}


def _annotation(job: Object | None, key: str) -> str:
    return str(((job or {}).get("metadata", {}).get("annotations") or {}).get(key) or "")


def needs_of(job: Object | None, steps: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the steps that a Job waits for, of those that are there."""
    return tuple(name for name in _annotation(job, names.NEEDS).split(",") if name in steps)


def main(release: str) -> int:
    """Conduct a release from inside the cluster; the exit code is the run's."""

    def leave(number: int, frame: FrameType | None) -> None:
        # As PID 1 we would ignore it; nothing needs to be saved.
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("aios").setLevel(logging.INFO)
    expected = tuple(name for name in os.environ.get("AIOS_STEPS", "").split(",") if name)
    api = Api(connect(namespace=os.environ.get("AIOS_NAMESPACE")))
    deadline = float(os.environ.get("AIOS_STARTUP_DEADLINE_S", "1800"))
    outcome = Conductor(api, release, expected, deadline).conduct()
    _LOG.info("the run has %s", outcome.value)
    return 0 if outcome is Outcome.SUCCEEDED else FAILED_RUN
