"""Runs in the cluster as `aios jobs` sees them: releases by label, a picture of each, stop and resume."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.contract.errors import BadConfig, NotAuthorised
from k8s.cluster import names
from k8s.cluster.client import Api, Object, find, namespace_exists, no_namespace
from k8s.cluster.mirror import Mirror
from k8s.cluster.observe import Observed, Surroundings, needs_of, observe, running
from k8s.cluster.surroundings import nodes_of
from k8s.conductor import Phase, decide
from k8s.diagnose import Diagnosis
from k8s.objects import is_true, name_of, seconds
from k8s.steps import STEPS
from k8s.values import Values, read_yaml
from k8s.view import RunView, StepView


class Picture:
    """Keeps the Jobs, pods and status of runs by watches, so that looking costs no call."""

    def __init__(self, api: Api, run: str | None = None) -> None:
        self.api = api
        self.changed = threading.Event()
        mine = f"{names.RUN}={run}" if run else names.RUN
        self.jobs = Mirror(api, api.path("jobs"), mine, self.changed)
        self.pods = Mirror(api, api.path("pods"), f"{mine},{names.STEP}", self.changed)
        self.statuses = Mirror(api, api.path("configmaps"), f"{mine},{names.KIND}=status", self.changed)

    def start(self) -> Picture:
        """Begin watching and wait for the first lists.

        Raises:
            AiosError: the server does not answer, or we may not look.
        """
        mirrors = (self.jobs, self.pods, self.statuses)
        for mirror in mirrors:
            mirror.start()
        for mirror in mirrors:
            while not mirror.ready.wait(0.02):
                if mirror.error is not None:
                    raise mirror.error
        return self

    def releases(self, run: str | None = None) -> list[Object]:
        """Return the status objects of all runs or of one, the newest first.

        Raises:
            NotAuthorised: we may not look any more. A server that does not answer is waited for.
        """
        for mirror in (self.jobs, self.pods, self.statuses):
            if isinstance(mirror.error, NotAuthorised):
                raise mirror.error
        found = self.statuses.objects.values()
        mine = [item for item in found if run is None or item["metadata"]["labels"].get(names.RUN) == run]
        return sorted(mine, key=lambda item: item["metadata"]["creationTimestamp"], reverse=True)

    def view(self, release: str) -> RunView:
        """Return the picture of one release. Where no node takes a pod, those who may read nodes see what they lack."""
        found = view(release, self.jobs.objects, self.pods.objects, self.statuses.objects)
        nodes = nodes_of(self.api) if any(step.message.startswith("UNSCHEDULABLE") for step in found.steps) else ()
        return view(release, self.jobs.objects, self.pods.objects, self.statuses.objects, nodes) if nodes else found

    def written(self, release: str) -> dict[str, Any]:
        """Return what the conductor has written about a release."""
        return _written(self.statuses.objects.get(names.status(release)) or {})


def view(
    release: str,
    jobs: Mapping[str, Object],
    pods: Mapping[str, Object],
    statuses: Mapping[str, Object],
    nodes: Sequence[Object] = (),
) -> RunView:
    """Return what a release looks like, from its objects alone."""
    status = statuses.get(names.status(release)) or {}
    written = _written(status)
    expected = [name for name in STEPS if f"{release}-{name}" in jobs or name in written.get("steps", {})]
    observed: dict[str, Observed] = {}
    needed = {need for name in expected for need in needs_of(jobs.get(f"{release}-{name}"), STEPS)}
    for name in expected:
        job = f"{release}-{name}"
        mine = [pod for pod in pods.values() if (pod["metadata"].get("labels") or {}).get("job-name") == job]
        known = written.get("steps", {}).get(name, {})
        observed[name] = observe(
            jobs.get(job), mine, known.get("phase", ""), known.get("attempts", ()), Surroundings(nodes=nodes),
            checked_later=name in needed,
        )  # fmt: skip
    stopped = any(is_stopped(seen.job) for seen in observed.values())
    plan = decide({n: seen.state(needs_of(seen.job, observed)) for n, seen in observed.items()}, stopped=stopped)
    steps = tuple(
        _step_view(name, seen, written.get("steps", {}).get(name, {}), cut_off=name in plan.skip, stopped=stopped)
        for name, seen in observed.items()
    )
    failed = next((step for step in steps if step.phase is Phase.FAILED), None)
    metadata = status.get("metadata", {})
    return RunView(
        name=(metadata.get("labels") or {}).get(names.RUN, release),
        phase=_phase(plan.outcome, stopped=stopped, conductor=jobs.get(names.conductor(release))),
        profile="kubernetes",
        created=seconds(metadata.get("creationTimestamp")) or 0.0,
        steps=steps,
        message=f"{failed.name}: {failed.message}" if failed else "",
    )


def _phase(outcome: Any, *, stopped: bool, conductor: Object | None) -> str:
    if outcome is not None:
        return str(outcome.value)
    if stopped:
        return "stopping"
    if conductor is None or is_true(conductor, "Failed"):
        return "abandoned"
    return "running"


def _step_view(name: str, seen: Observed, written: Mapping[str, Any], *, cut_off: bool, stopped: bool) -> StepView:
    phase = Phase.SKIPPED if cut_off else seen.phase
    attempts = written.get("attempts", [])
    last = attempts[-1] if attempts else {}
    status = (seen.job or {}).get("status", {})
    found = None if phase is Phase.SUCCEEDED else _diagnosis(seen, phase, written)
    message = _message(found, seen, phase, written)
    pod = seen.pods[-1] if seen.pods else {}
    return StepView(
        name=name,
        phase=phase,
        state=_word(phase, seen, last, stopped=stopped),
        needs=needs_of(seen.job, STEPS),
        attempt=-(-max(len(attempts), len(seen.pods)) // _pods_at_once(seen.job)),
        exit_code=last.get("exit_code"),
        message="" if phase is Phase.SUCCEEDED else message,
        started_at=seconds(status.get("startTime")),
        finished_at=seconds(status.get("completionTime")) or (seconds(last.get("finished")) if _over(phase) else None),
        node=pod.get("spec", {}).get("nodeName", "") or last.get("node", ""),
        pod=pod.get("metadata", {}).get("name", "") or last.get("pod", ""),
        manifest_sha256=last.get("manifest_sha256"),
        diagnosis=found.to_json() if found else {},
        repairs=tuple(written.get("repairs", ())),
    )


def _pods_at_once(job: Object | None) -> int:
    """Return how many pods of a gang, or shards, make one attempt."""
    return int(((job or {}).get("spec") or {}).get("completions") or 1)


def _diagnosis(seen: Observed, phase: Phase, written: Mapping[str, Any]) -> Diagnosis | None:
    """Return what is wrong with a step. The conductor knows more than we: it reads events, and remembers."""
    found, recorded = seen.diagnosis, written.get("diagnosis")
    if not recorded or phase not in (Phase.RUNNING, Phase.FAILED):
        return found
    if found is not None and found.code == "UNSCHEDULABLE" and seen.pods:
        return found  # we may know nodes, which the conductor does not
    newest = name_of(seen.pods[-1]) if seen.pods else ""
    same = found is not None and found.code == recorded.get("code")
    unseen = found is None and recorded.get("pod", "") in ("", newest) and not any(map(running, seen.pods))
    return Diagnosis.from_json(recorded) if same or unseen or not seen.pods else found


def _message(found: Diagnosis | None, seen: Observed, phase: Phase, written: Mapping[str, Any]) -> str:
    if found is None:
        return seen.message or str(written.get("message", ""))
    if found.code.startswith("APP_") and phase is Phase.FAILED:
        return seen.message or found.summary  # the step's own sentence, which ends in what to do
    return f"{found.code}: {found.summary}" + (f"; {found.resolution}" if found.resolution else "")


def _over(phase: Phase) -> bool:
    return phase in (Phase.FAILED, Phase.SUCCEEDED)


def _word(phase: Phase, seen: Observed, last: Mapping[str, Any], *, stopped: bool) -> str:
    if phase is Phase.RUNNING:
        if stopped:
            return "stopping"
        pod = seen.pods[-1].get("status", {}).get("phase", "") if seen.pods else ""
        return {"Running": "running", "Failed": "retrying"}.get(pod, "starting")
    if phase is Phase.WAITING and stopped and last:
        return "stopped"
    if phase is Phase.SUCCEEDED and last.get("state") == "skipped":
        return "already done"
    return phase.value


def _written(status: Object) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads((status.get("data") or {}).get("state.json", "{}"))
    except json.JSONDecodeError:
        return {}
    return document


def is_stopped(job: Object | None) -> bool:
    """Tell whether a Job carries the mark of `stop`."""
    return bool(((job or {}).get("metadata", {}).get("annotations") or {}).get(names.STOPPED))


def releases(api: Api, run: str | None = None) -> list[Object]:
    """Return the status objects of a run's releases, or of all runs'.

    Raises:
        EnvironmentUnfit: there is no such namespace.
    """
    selector = f"{names.KIND}=status" + (f",{names.RUN}={run}" if run else "")
    found = list(api.get(api.path("configmaps"), labelSelector=selector)["items"])
    if not found and namespace_exists(api) is False:
        raise no_namespace(api)
    return found


def newest_release(api: Api, run: str | None) -> str:
    """Return the newest release of a run, or of all runs.

    Raises:
        BadConfig: there is none.
    """
    found = releases(api, run)
    if not found:
        if run and (release := _without_status(api, run)):
            raise BadConfig(names.status_gone(release, api.namespace))
        runs = sorted({item["metadata"]["labels"][names.RUN] for item in releases(api)})
        raise BadConfig(
            f"no run {run!r} in the namespace {api.namespace}" if run else f"no runs in the namespace {api.namespace}",
            needed=", ".join(runs[:8]) or "none yet; start one with `aios jobs submit`",
            next_step=f"if it was uninstalled, `aios jobs resume {run}` goes on from its folders" if run else "",
        )
    newest = max(found, key=lambda item: item["metadata"]["creationTimestamp"])
    return str(newest["metadata"]["name"].removesuffix("-status"))


def _without_status(api: Api, run: str) -> str:
    """Return the release of a run's Jobs, which are there though its status is not; "" where they are not either."""
    found = api.get(api.path("jobs"), labelSelector=f"{names.RUN}={run}")["items"]
    there = [job for job in found if not job["metadata"].get("deletionTimestamp")]
    return str(there[-1]["metadata"]["labels"][names.INSTANCE]) if there else ""


def stored_values(api: Api, release: str) -> Values:
    """Return the values that a release was installed with."""
    status = find(api, "configmaps", names.status(release)) or {}
    return dict(read_yaml((status.get("data") or {}).get("values.yaml", ""), names.status(release)) or {})
