"""The conductor in the cluster: watches the run's Jobs, releases what may start, writes the status ConfigMap.

Its whole state is in the API: it reads Jobs, pods and events, patches the run's own Jobs and one ConfigMap, and may die
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
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

from jobs.contract.errors import AiosError, NotAuthorised
from k8s import repair
from k8s.cluster import names
from k8s.cluster.client import STRATEGIC, Api, ApiError, Object
from k8s.cluster.config import connect
from k8s.cluster.mirror import Mirror
from k8s.cluster.observe import Observed, Surroundings, completed, needs_of, observe
from k8s.cluster.status import read_status, step_status, write_status
from k8s.cluster.surroundings import about, claims_of, workloads_of
from k8s.conductor import Outcome, Phase, decide
from k8s.diagnose import Diagnosis
from k8s.objects import annotation, is_true, name_of, seconds

__all__ = ["FAILED_RUN", "Conductor", "main", "needs_of", "observe", "read_status"]

_LOG = logging.getLogger("aios")
_IDLE_S = 10.0
_GONE_GRACE_S = 30.0
FAILED_RUN = 1
"""Exit code of a conductor whose run has failed; the chart's podFailurePolicy ends its Job then."""


class Conductor:
    """Conducts one release to its end."""

    def __init__(self, api: Api, release: str, expected: tuple[str, ...], startup_deadline_s: float) -> None:
        self.api, self.release, self.expected = api, release, expected
        self.startup_deadline_s = startup_deadline_s
        self.changed = threading.Event()
        selector = f"{names.INSTANCE}={release},{names.STEP}"
        self.jobs = Mirror(api, api.path("jobs"), selector, self.changed)
        self.pods = Mirror(api, api.path("pods"), selector, self.changed)
        # Warnings alone: one watch for volumes, networks and refused pods, of which no status tells.
        self.events = Mirror(
            api, api.path("events"), "", self.changed, fields="type=Warning", keep=lambda event: about(event, release)
        )
        self.status: dict[str, Any] = {}
        self._written = ""
        self._told_gone = False
        self._missing_since: dict[str, float] = {}

    def conduct(self) -> Outcome:
        """Work until the run has ended."""
        self.status = read_status(self.api, self.release)
        for mirror in (self.jobs, self.pods, self.events):
            mirror.start()
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
        stopped = any(annotation(seen.job, names.STOPPED) for seen in steps.values())
        plan = decide({name: seen.state(needs_of(seen.job, steps)) for name, seen in steps.items()}, stopped=stopped)
        for name in plan.release:
            self._release(steps[name].job)
        for name in plan.skip:
            self._skip(steps[name].job)
        for name in plan.hold:
            self._hold(steps[name])
        for name in plan.mend:
            self._mend(steps[name].job)
        self._write_status(steps, plan.skip, plan.outcome, stopped=stopped)
        for name, seen in steps.items():
            self._give_up(name, seen)
        return plan.outcome

    def _observe(self, name: str, jobs: Mapping[str, Object], pods: Mapping[str, Object]) -> Observed:
        job_name = f"{self.release}-{name}"
        job = jobs.get(job_name)
        mine, gone = (
            [p for p in found.values() if (p["metadata"].get("labels") or {}).get("job-name") == job_name]
            for found in (pods, {k: v for k, v in self.pods.gone.items() if k not in pods})
        )
        known = self.status.get("steps", {}).get(name, {})
        around = Surroundings(
            gone=gone, events=tuple(self.events.objects.values()), claims=claims_of(self.api, mine),
            workloads=workloads_of(self.api, job),
        )  # fmt: skip
        later = any(name in annotation(other, names.NEEDS).split(",") for other in jobs.values())

        def look(pods: Sequence[Object]) -> Observed:
            return observe(
                job, pods, known.get("phase", ""), known.get("attempts", ()), around, checked_later=later
            )  # fmt: skip

        seen = look(mine)
        unseen = not any(map(completed, [*mine, *gone])) and known.get("phase") != "succeeded"
        if job is not None and is_true(job, "Complete") and unseen:
            # Is the pod that made it so gone, or has the watch not come to it yet? It may have proven nothing: ask.
            fresh = self.api.get(self.api.path("pods"), labelSelector=f"job-name={job_name}")
            seen = look(fresh["items"])
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
        queue = annotation(job, names.QUEUE)
        body: dict[str, Any] = {"metadata": metadata}
        if queue:
            metadata["labels"] = {names.KUEUE_LABEL: queue}
        else:
            body["spec"] = {"suspend": False}
        if self._patch(job, body):
            _LOG.info("released %s", job["metadata"]["name"])

    def _skip(self, job: Object | None) -> None:
        if job is not None and not annotation(job, names.SKIPPED):
            version = job["metadata"]["resourceVersion"]
            note = {names.SKIPPED: "a step before it failed"}
            self._patch(job, {"metadata": {"resourceVersion": version, "annotations": note}})

    def _hold(self, seen: Observed) -> None:
        """Suspend a step whose next attempt shall go differently, and write down how."""
        newest = max([*seen.pods, *seen.gone], key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
        change = repair.wanted(seen.job or {}, seen.diagnosis, newest)
        if change is None or seen.job is None:
            return
        metadata = {"resourceVersion": seen.job["metadata"]["resourceVersion"]}
        body = {"metadata": metadata | {"annotations": {names.MENDING: change.to_json()}}, "spec": {"suspend": True}}
        if self._patch(seen.job, body):
            _LOG.info("holding %s: %s", name_of(seen.job), change.told(refused=False))

    def _mend(self, job: Object | None) -> None:
        """Change a held step and let it go on. A server that does not take the change has it go on unchanged."""
        change = repair.pending(job or {})
        if job is None or change is None or not is_true(job, "Suspended"):
            return
        refused = ""
        try:
            body = repair.change(job, change)
            body["metadata"] = {"resourceVersion": job["metadata"]["resourceVersion"]}
            job = self.api.patch(self.api.path("jobs", name_of(job)), body, kind=STRATEGIC)
        except ApiError as exc:
            if exc.status in (404, 409):
                return
            if exc.status not in (400, 422):
                raise
            refused = str(exc)
            _LOG.warning("%s: %s", name_of(job), refused)
        entry = json.loads(change.to_json()) | {"refused": refused[:300]}
        notes = {names.MENDING: None, names.MENDED: json.dumps([*repair.made(job), entry])}
        metadata = {"resourceVersion": job["metadata"]["resourceVersion"], "annotations": notes}
        if self._patch(job, {"metadata": metadata, "spec": {"suspend": False}}):
            _LOG.info("%s: %s", name_of(job), change.told(refused=bool(refused)))

    def _give_up(self, name: str, seen: Observed) -> None:
        """End a step that cannot start: the Job API has no clock for that, so its deadline is moved to now.

        The cause goes onto the Job with it: the pod that shows it is deleted by this very change.
        """
        job = seen.job
        if seen.phase is not Phase.RUNNING or job is None or job["spec"].get("suspend"):
            return
        if annotation(job, names.GIVEN_UP):
            return
        known = self.status.get("steps", {}).get(name, {})
        found, patience, since = seen.diagnosis, self._patience(job), _waiting_since(seen, known)
        fatal_after_s = found.fatal_after_s if found else None
        if fatal_after_s is not None and fatal_after_s < patience and _starting(seen) and "diagnosis" in known:
            patience, since = fatal_after_s, float(known["diagnosis"]["since"])
        if since is None or time.time() - since <= patience:
            return
        found = found or Diagnosis(code="DEADLINE", summary="it did not start in time")
        summary = f"{found.summary} (given up after {patience:.0f} s)"
        note = found.told(summary=summary, detail=found.detail[:600], evidence=found.evidence[-3:])
        body = {
            "metadata": {"annotations": {names.GIVEN_UP: json.dumps(note.to_json())}},
            "spec": {"activeDeadlineSeconds": 1},
        }
        if self._patch(job, body):
            _LOG.warning("%s is given up: %s", name, note.summary)

    def _patience(self, job: Object) -> float:
        return float(annotation(job, names.STARTUP_DEADLINE) or self.startup_deadline_s)

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
        events = tuple(self.events.objects.values())
        views = {
            name: step_status(Phase.SKIPPED if name in skip else seen.phase, seen, before.get(name, {}), events)
            for name, seen in steps.items()
        }
        word = outcome.value if outcome else "running"
        self.status = {"release": self.release, "phase": word, "stopped": stopped, "steps": views}
        text = json.dumps(self.status)
        # The last word is written whatever we wrote before: a conductor on a lost node may have written after us.
        if text != self._written or outcome in (Outcome.SUCCEEDED, Outcome.FAILED):
            self._written = text if self._save() else ""

    def _save(self) -> bool:
        """Write the status. Without its ConfigMap the run goes on: we may not make one, and no step needs it."""
        try:
            write_status(self.api, self.release, self.status)
        except ApiError as exc:
            if exc.status != 404:
                raise
            if not self._told_gone:
                _LOG.warning("%s", names.status_gone(self.release, self.api.namespace))
            self._told_gone = True
            return False
        self._told_gone = False
        return True


def _starting(seen: Observed) -> bool:
    """Tell whether a step has not come to run: its newest pod waits, or none could be made."""
    newest = seen.pods[-1] if seen.pods else None
    return newest is None or (
        newest.get("status", {}).get("phase") == "Pending" and not newest["metadata"].get("deletionTimestamp")
    )


def _waiting_since(seen: Observed, known: Mapping[str, Any]) -> float | None:
    """Return since when a step waits to start; None where it does not. Between two attempts nothing waits."""
    if not _starting(seen):
        return None
    if seen.pods:
        return seconds(seen.pods[-1]["metadata"]["creationTimestamp"])
    status = (seen.job or {}).get("status", {})
    first = not known.get("attempts") and not seen.gone and not status.get("failed")
    return seconds(status.get("startTime")) if first else None


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
