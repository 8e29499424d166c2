"""What people ask of runs in the cluster: install, stop, go on."""

from __future__ import annotations

import contextlib
import re
import time
from typing import Any

from jobs.contract.errors import AiosError, BadConfig
from k8s import helm
from k8s.cluster import names
from k8s.cluster.client import Api, ApiError, Object, find
from k8s.cluster.runs import Picture, is_stopped, releases, stored_values
from k8s.diagnose import diagnose_pod
from k8s.objects import is_true, name_of
from k8s.values import Values, read_yaml


def submit(api: Api, values: Values) -> str:
    """Install a run; nothing of it depends on this process afterwards."""
    release = values["run"]["name"]
    refuse_shared_folders(api, values)
    try:
        return helm.install(release, values, context=api.connection.context, namespace=api.namespace)
    except BadConfig as exc:
        if exc.next_step.startswith("`aios jobs resume") and not releases(api, release):
            raise BadConfig(
                f"the installation of {release} was cut short before",
                next_step=f"helm -n {api.namespace} uninstall {release}, then submit it again",
            ) from exc
        raise


def stop(api: Api, release: str) -> None:
    """Mark the run stopped on each of its Jobs and suspend them: their pods get SIGTERM and save."""
    for job in _step_jobs(api, release):
        body: dict[str, Any] = {"metadata": {"annotations": {names.STOPPED: "true"}}}
        if not (is_true(job, "Complete") or is_true(job, "Failed")):
            body["spec"] = {"suspend": True}
        api.patch(api.path("jobs", job["metadata"]["name"]), body)
    _suspend_conductor(api, release, suspend=True)


def resume(api: Api, release: str) -> str:
    """Go on from what is complete; returns the release that now runs.

    A stopped run is let go again. Where a Job has failed for good, or the conductor has ended, a new release on the
    same folders takes over: its finished steps find their results and are skipped.
    """
    jobs = _step_jobs(api, release)
    conductor = find(api, "jobs", names.conductor(release))
    dead = conductor is None or is_true(conductor, "Failed") or is_true(conductor, "Complete")
    if dead or any(is_true(job, "Failed") for job in jobs):
        return _succeed(api, release)
    for job in jobs:
        if is_stopped(job):
            api.patch(api.path("jobs", job["metadata"]["name"]), {"metadata": {"annotations": {names.STOPPED: None}}})
    _suspend_conductor(api, release, suspend=False)
    return release


def _succeed(api: Api, release: str) -> str:
    values = stored_values(api, release)
    if not values:
        raise AiosError(
            f"the values of {release} are gone", next_step="submit it again with the same --name and values"
        )
    base, number = values["run"]["name"], 2
    match = re.fullmatch(re.escape(base) + r"-r(\d+)", release)
    if match:
        number = int(match[1]) + 1
    stop(api, release)
    _await_quiet(api, release, max(step.get("gracePeriodSeconds", 30) for step in values["steps"].values()))
    successor = f"{base}-r{number}"
    helm.install(successor, values, context=api.connection.context, namespace=api.namespace)
    return successor


def _await_quiet(api: Api, release: str, grace_s: float) -> None:
    """Wait until no pod of a release writes any more: its successor works on the same folders."""
    selector, deadline = f"{names.INSTANCE}={release},{names.STEP}", time.monotonic() + grace_s + 60
    while any(
        pod["status"].get("phase") == "Running" for pod in api.get(api.path("pods"), labelSelector=selector)["items"]
    ):
        if time.monotonic() > deadline:
            raise AiosError(
                f"a pod of {release} has not ended within its grace period",
                next_step=f"kubectl -n {api.namespace} get pods -l {names.INSTANCE}={release}, then resume again",
            )
        time.sleep(1)


def forget_vanished(api: Api, release: str) -> list[str]:
    """Delete by force the pods of a release that should be gone and are not, so that replacements come.

    Two pods that write one folder would damage it: this is for nodes that are off for good, and for people to decide.
    """
    pods = api.get(api.path("pods"), labelSelector=f"{names.INSTANCE}={release},{names.STEP}")["items"]
    found = [name_of(pod) for pod in pods if (d := diagnose_pod(pod)) and d.code == "ZOMBIE_TERMINATING"]
    for name in found:
        # A deleted pod that has not failed keeps the Job controller's finalizer for ever: force alone changes nothing.
        api.patch(api.path("pods", name), {"metadata": {"finalizers": None}})
        with contextlib.suppress(ApiError):  # gone with its last finalizer
            api.delete(api.path("pods", name), gracePeriodSeconds=0)
    return found


def _step_jobs(api: Api, release: str) -> list[Object]:
    selector = f"{names.INSTANCE}={release},{names.STEP}"
    return list(api.get(api.path("jobs"), labelSelector=selector)["items"])


def _suspend_conductor(api: Api, release: str, *, suspend: bool) -> None:
    try:
        api.patch(api.path("jobs", names.conductor(release)), {"spec": {"suspend": suspend}})
    except ApiError as exc:
        if exc.status not in (404, 422):  # gone, or ended: then there is nothing to hold or to let go
            raise


def refuse_shared_folders(api: Api, values: Values) -> None:
    """A folder that a live run reads or writes is not written by another one."""
    from k8s.sharing import conflict

    picture = Picture(api).start()
    for status in picture.releases():
        release = status["metadata"]["name"].removesuffix("-status")
        if not picture.view(release).ended:
            theirs = read_yaml((status.get("data") or {}).get("values.yaml", ""), release) or {}
            if theirs.get("run", {}).get("name") != values["run"]["name"]:
                conflict(values, theirs)
