"""What a diagnosis may need besides Job and pods, asked for sparingly: claims that do not bind, Kueue's workloads."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from jobs.contract.errors import AiosError
from k8s.cluster import names
from k8s.cluster.client import Api, Object
from k8s.objects import condition, label

_AGAIN_S = 10.0
_asked: dict[str, tuple[float, tuple[Object, ...]]] = {}


def about(event: Object, release: str) -> bool:
    """Tell whether an event is about something of a release, or about a claim."""
    subject = event.get("involvedObject", {})
    mine = str(subject.get("name", "")).startswith(f"{release}-")
    return subject.get("kind") == "PersistentVolumeClaim" or (mine and subject.get("kind") in ("Pod", "Job"))


def claims_of(api: Api, pods: Sequence[Object]) -> tuple[Object, ...]:
    """Return the claims of pods that wait for one."""
    waiting = [pod for pod in pods if "ersistentvolumeclaim" in _unscheduled(pod).lower()]
    volumes = [volume for pod in waiting for volume in pod.get("spec", {}).get("volumes") or []]
    wanted = {v["persistentVolumeClaim"]["claimName"] for v in volumes if v.get("persistentVolumeClaim")}
    paths = [api.path("persistentvolumeclaims", name) for name in sorted(wanted)]
    return tuple(claim for path in paths for claim in _now_and_then(path, lambda path=path: (api.get(path),)))  # type: ignore[misc]


def _unscheduled(pod: Object) -> str:
    scheduled = condition(pod, "PodScheduled") or {}
    return str(scheduled.get("message", "")) if scheduled.get("status") == "False" else ""


def workloads_of(api: Api, job: Object | None) -> tuple[Object, ...]:
    """Return Kueue's workloads of a Job that waits in a queue."""
    if job is None or not (label(job, names.KUEUE_LABEL) and job.get("spec", {}).get("suspend")):
        return ()
    uid = job["metadata"].get("uid", "")
    for version in ("v1beta2", "v1beta1"):
        path = f"/apis/kueue.x-k8s.io/{version}/namespaces/{api.namespace}/workloads"
        selector = {"labelSelector": f"kueue.x-k8s.io/job-uid={uid}"}
        found = _now_and_then(f"{path} {uid}", lambda path=path, query=selector: api.get(path, **query)["items"])  # type: ignore[misc]
        if found:
            return found
    return ()


def nodes_of(api: Api) -> tuple[Object, ...]:
    """Return the cluster's nodes, for those who may read them."""
    return _now_and_then("nodes", lambda: api.get("/api/v1/nodes")["items"])


def _now_and_then(key: str, ask: Callable[[], Sequence[Object]]) -> tuple[Object, ...]:
    """Ask at most every ten seconds; what may not be read, or is not there, is nothing."""
    at, answer = _asked.get(key, (0.0, ()))
    if at and time.monotonic() - at < _AGAIN_S:
        return answer
    try:
        answer = tuple(ask())
    except AiosError:
        answer = ()
    _asked[key] = (time.monotonic(), answer)
    return answer
