"""The status of a run, one ConfigMap: what became of its steps and why, when pods and events are long gone."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from k8s import repair
from k8s.cluster import names
from k8s.cluster.client import Api, Object, find
from k8s.cluster.observe import Observed
from k8s.conductor import Phase
from k8s.diagnose import diagnose_pod
from k8s.objects import ending, node_of, termination_message

_MAX_ATTEMPTS = 10
_MAX_BYTES = 600_000
"""A ConfigMap takes 1 MiB, of which the run's values have a part."""
_POD_BYTES = 4000


def read_status(api: Api, release: str) -> dict[str, Any]:
    """Return what the last conductor wrote about a release."""
    found = find(api, "configmaps", names.status(release)) or {}
    try:
        status: dict[str, Any] = json.loads((found.get("data") or {}).get("state.json", "{}"))
    except json.JSONDecodeError:
        return {}
    return status


def write_status(api: Api, release: str, status: Mapping[str, Any]) -> None:
    """Write it; the only writer is the release's conductor."""
    text = json.dumps({**status, "updated": time.time()}, indent=1)
    if len(text.encode()) > _MAX_BYTES:
        text = json.dumps(_shortened(status), indent=1)
    api.patch(api.path("configmaps", names.status(release)), {"data": {"state.json": text}})


def _shortened(status: Mapping[str, Any]) -> dict[str, Any]:
    """Return the status with the last words of each step's newest attempt only."""
    steps = {}
    for name, step in status.get("steps", {}).items():
        attempts = [{k: v for k, v in a.items() if k != "log"} for a in step.get("attempts", [])[:-1]]
        steps[name] = step | {"attempts": [*attempts, *step.get("attempts", [])[-1:]]}
    return {**status, "steps": steps, "updated": time.time()}


def step_status(
    phase: Phase, seen: Observed, before: Mapping[str, Any], events: Sequence[Object] = ()
) -> dict[str, Any]:
    """Return a step's part of the status; what pods said stays after they are gone."""
    attempts = {attempt["pod"]: attempt for attempt in before.get("attempts", [])}
    for pod in sorted([*seen.gone, *seen.pods], key=lambda pod: str(pod["metadata"]["creationTimestamp"])):
        name = pod["metadata"]["name"]
        attempts[name] = attempts.get(name, {}) | _attempt(pod, gone=pod in seen.gone, events=events)
    status: dict[str, Any] = {"phase": phase.value, "attempts": list(attempts.values())[-_MAX_ATTEMPTS:]}
    if seen.diagnosis is not None:
        known = before.get("diagnosis", {})
        same = known.get("code") == seen.diagnosis.code and known.get("pod", "") == seen.diagnosis.pod
        status["diagnosis"] = seen.diagnosis.to_json() | {"since": known["since"] if same else round(time.time(), 1)}
        if same and not seen.diagnosis.evidence and known.get("evidence"):
            status["diagnosis"]["evidence"] = known["evidence"]  # events expire after an hour
        status["pod"] = _evidence(seen) or before.get("pod", {})
    elif phase is Phase.FAILED and "diagnosis" in before:
        status |= {key: before[key] for key in ("diagnosis", "pod") if key in before}
    changes = [repair.Repair(**{k: v for k, v in entry.items() if k != "refused"}).told(refused=bool(entry["refused"]))
               for entry in repair.made(seen.job or {})]  # fmt: skip
    if changes:
        status["repairs"] = changes
    found = seen.diagnosis
    message = seen.message or (found.summary if found and phase is Phase.FAILED else "")
    return status | ({"message": message} if message else {})


def _evidence(seen: Observed) -> dict[str, Any]:
    """Return the status of the pod that the diagnosis is about, as the API had it, where it is not too long."""
    name = seen.diagnosis.pod if seen.diagnosis else ""
    pod = next((pod for pod in (*seen.pods, *seen.gone) if pod["metadata"]["name"] == name), None)
    if pod is None:
        return {}
    status = {k: v for k, v in pod.get("status", {}).items() if k not in ("podIPs", "hostIPs", "podIP", "hostIP")}
    for short in (status, {k: v for k, v in status.items() if k != "conditions"}):
        if len(json.dumps(short)) <= _POD_BYTES:
            return {"name": name, "status": short}
    return {"name": name, "status": {k: status.get(k) for k in ("phase", "reason", "message")}}


def _attempt(pod: Object, *, gone: bool, events: Sequence[Object]) -> dict[str, Any]:
    ended, said = ending(pod) or {}, termination_message(pod)
    status = pod.get("status", {})
    over = gone or status.get("phase") in ("Failed", "Succeeded")
    cause = diagnose_pod(pod, events) if over else None
    cut_off = gone and not ended and status.get("phase") == "Running"
    attempt = {
        "pod": pod["metadata"]["name"],
        "node": node_of(pod),
        "phase": status.get("phase", ""),
        "created": pod["metadata"]["creationTimestamp"],
        "started": status.get("startTime"),
        "finished": ended.get("finishedAt"),
        "exit_code": ended.get("exitCode"),
        "state": said.get("state"),
        "message": said.get("message"),
        "manifest_sha256": said.get("manifest_sha256"),
        "log": said.get("log"),
        "code": cause.code if cause else ("USER_DELETED" if cut_off else None),
        "summary": cause.summary[:600] if cause else None,
    }
    return {key: value for key, value in attempt.items() if value not in (None, "")}
