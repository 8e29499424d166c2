"""The logs of steps in pods, without gaps or doubles over rotations, reconnects and restarts of the API server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from k8s.cluster import names
from k8s.cluster.client import _TRANSPORT, Api, ApiError, Object

_PAUSE_S = 0.5


def stream(
    api: Api, release: str, steps: list[str], *, follow: bool, ended: Callable[[], bool], status: Mapping[str, Any]
) -> Iterator[tuple[str, int, str]]:
    """Yield step, attempt and line; with `follow` until the run has ended. What pods no longer have, the status has."""
    done: set[str] = set()
    while True:
        last = not follow or ended()
        for step in steps:
            pods = _pods(api, release, step)
            known = {pod["metadata"]["name"] for pod in pods}
            recorded = (status.get("steps", {}).get(step) or {}).get("attempts", [])
            gone = [attempt for attempt in recorded if attempt["pod"] not in known | done]
            for number, attempt in enumerate(gone, start=1):
                done.add(attempt["pod"])
                for line in str(attempt.get("log") or attempt.get("message") or "").splitlines():
                    yield step, number, line
            for number, pod in enumerate(
                pods, start=1 + len(recorded) - len([r for r in recorded if r["pod"] in known])
            ):
                name = pod["metadata"]["name"]
                if name in done or pod.get("status", {}).get("phase") == "Pending":
                    continue
                done.add(name)
                for line in pod_lines(api, name, follow=follow):
                    yield step, number, line
        if last:
            return
        time.sleep(_PAUSE_S)


def _pods(api: Api, release: str, step: str) -> list[Object]:
    found = api.get(api.path("pods"), labelSelector=f"{names.INSTANCE}={release},{names.STEP}={step}")["items"]
    return sorted(found, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))


def pod_lines(api: Api, pod: str, *, follow: bool) -> Iterator[str]:
    """Yield a pod's log lines once each.

    A stream ends when a log is rotated, when a proxy is tired of it (an hour) or when the API server restarts. Every
    line carries its time, so the next stream begins at the last one, and lines of that very instant are counted.
    """
    since, seen = "", 0
    while True:
        cut = False
        query = (
            {"timestamps": "true"} | ({"follow": "true"} if follow else {}) | ({"sinceTime": since} if since else {})
        )
        skip = seen
        try:
            for raw in api.stream(f"{api.path('pods', pod)}/log", read_timeout=90.0, **query):
                stamp, _, line = raw.decode(errors="replace").rstrip("\n").partition(" ")
                if since and _second(stamp) == _second(since) and skip > 0:
                    # sinceTime counts whole seconds: what was shown of this second comes again.
                    skip -= 1
                    continue
                seen = seen + 1 if since and _second(stamp) == _second(since) else 1
                since = stamp
                yield line
        except _TRANSPORT:
            cut = True
        except ApiError as exc:
            if exc.status == 404:
                return
            cut = True
        if not follow or (not cut and not _runs(api, pod)):
            return
        time.sleep(_PAUSE_S)


def _second(stamp: str) -> str:
    return stamp[:19]


def _runs(api: Api, pod: str) -> bool:
    try:
        phase = api.get(api.path("pods", pod)).get("status", {}).get("phase")
    except ApiError as exc:
        return exc.status != 404
    return phase in ("Running", "Pending")
