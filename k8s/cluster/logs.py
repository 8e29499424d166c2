"""The logs of steps in pods, without gaps or doubles over rotations, reconnects and restarts of the API server."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from jobs.contract.errors import AiosError, ServiceDown
from k8s.cluster import names
from k8s.cluster.client import TRANSPORT, Api, ApiError, Object, down
from k8s.cluster.runs import Picture

_LOOK_S = 0.2
_LONGEST_PAUSE_S = 15.0
_SILENCE_S = 300.0
_ATTEMPTS = 6
_ENDED = ("Succeeded", "Failed")


def stream(
    picture: Picture, release: Callable[[], str], steps: list[str], *, follow: bool, ended: Callable[[], bool]
) -> Iterator[tuple[str, int, str]]:
    """Yield step, attempt and line; with `follow` until the run has ended.

    Pods are found in what the watches bring, so waiting for one costs no call. What pods no longer have, the status
    has. `release` is asked each time: a run that is resumed goes on in a new one.
    """
    done: set[str] = set()
    while True:
        last = not follow or ended()
        for step in steps:
            for number, name, pod, recorded in _attempts(picture, release(), step):
                if name in done or (pod is not None and pod.get("status", {}).get("phase") in (None, "Pending")):
                    continue
                done.add(name)
                lines = pod_lines(picture.api, name, follow=follow) if pod is not None else _remembered(recorded)
                for line in lines:
                    yield step, number, line
        if last:
            return
        time.sleep(_LOOK_S)


def _attempts(picture: Picture, release: str, step: str) -> list[tuple[int, str, Object | None, Mapping[str, Any]]]:
    """Return number, pod name, pod (None where it is gone) and record of a step's attempts, oldest first."""
    mine = {names.INSTANCE: release, names.STEP: step}
    pods = {
        name: pod
        for name, pod in picture.pods.objects.items()
        if mine.items() <= (pod["metadata"].get("labels") or {}).items()
    }
    recorded = {a["pod"]: a for a in picture.written(release).get("steps", {}).get(step, {}).get("attempts", [])}
    ordered = sorted(pods, key=lambda name: (pods[name]["metadata"]["creationTimestamp"], name))
    order = [name for name in recorded if name not in pods] + ordered
    return [(n, name, pods.get(name), recorded.get(name, {})) for n, name in enumerate(order, start=1)]


def gone(picture: Picture, release: str, steps: list[str]) -> list[str]:
    """Return the steps of which a pod is gone, so that its log is no longer here but on the volume."""
    return [step for step in steps if any(pod is None for _, _, pod, _ in _attempts(picture, release, step))]


def _remembered(attempt: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a pod that is gone left in the status: its last lines, or its last word."""
    yield from str(attempt.get("log") or attempt.get("message") or "").splitlines()


class Missed(Exception):
    """Lines were written, and their file rotated away, while nobody was connected."""


@dataclass(slots=True)
class _Seen:
    """Lines of the last seconds with their times: what a new connection brings again is known by them."""

    newest: datetime | None = None
    lines: dict[datetime, Counter[str]] = field(default_factory=dict)

    def since(self) -> dict[str, str]:
        """Return where the next connection begins: the API counts whole seconds, and two streams of one pod may be
        written down out of order, so it begins a second early.
        """
        return {"sinceTime": f"{self._start():%Y-%m-%dT%H:%M:%SZ}"} if self.newest else {}

    def known(self) -> Counter[tuple[datetime, str]]:
        """Return what must not be shown again."""
        return Counter({(when, text): n for when, texts in self.lines.items() for text, n in texts.items()})

    def add(self, when: datetime, text: str) -> None:
        """Remember a line that was shown, and forget what no connection can bring again."""
        self.lines.setdefault(when, Counter())[text] += 1
        if self.newest is None or when > self.newest:
            self.newest = when
            start = self._start()
            self.lines = {moment: texts for moment, texts in self.lines.items() if moment >= start}

    def _start(self) -> datetime:
        assert self.newest is not None
        return self.newest.replace(microsecond=0) - timedelta(seconds=1)


def pod_lines(api: Api, pod: str, *, follow: bool, tail: int | None = None) -> Iterator[str]:
    """Yield a pod's log lines once each; a follower ends with the container.

    A stream ends when a log is rotated, when a proxy is tired of it (an hour) or when the API server restarts. The next
    one begins a little before the last line, and what is known is not shown again. What was rotated away meanwhile is
    read from the volume.
    """
    shown = 0
    try:
        for _, line in stamped_lines(api, pod, follow=follow, tail=tail, strict=tail is None):
            shown += 1
            yield line
    except Missed:
        yield from _rescued(api, pod, shown, follow=follow)


def _rescued(api: Api, pod: str, shown: int, *, follow: bool) -> Iterator[str]:
    from k8s.cluster import rescue

    try:
        yield from rescue.lines(api, pod, shown)
    except AiosError as exc:
        yield f"[lines are missing here: the log was rotated while the connection was cut, and {exc}]"
        # Nothing of the file that is served now was shown yet: it begins after what is missing.
        yield from pod_lines(api, pod, follow=follow)


def stamped_lines(
    api: Api, pod: str, *, follow: bool, tail: int | None = None, strict: bool = False
) -> Iterator[tuple[datetime, str]]:
    """Yield time and line as `pod_lines` does; `tail` begins so many lines before the end.

    Raises:
        Missed: where `strict`, lines were rotated away while the connection was cut.
    """
    seen, pause, last_look, failures = _Seen(), _LOOK_S, not follow, 0
    query = {"timestamps": "true"} | ({"tailLines": str(tail)} if tail is not None else {})
    while True:
        whole, some = False, False
        try:
            for when, line in _fresh(api, pod, seen, strict, query | ({} if last_look else {"follow": "true"})):
                some = True
                yield when, line
            whole = True
        except TRANSPORT as exc:
            failures = 0 if some else failures + 1  # cut: what is missing is asked for again
            if not follow and failures == _ATTEMPTS:
                raise down(api.connection, exc) from exc
        except ApiError as exc:
            if exc.status == 404:
                return
            whole = exc.status == 400  # the container has not started; it may
        if whole and last_look:
            return
        if seen.newest:
            query.pop("tailLines", None)
        if not last_look and not _runs(api, pod):
            # A stream may end whole and yet before the last line; one that does not follow cannot.
            last_look = True
            continue
        pause = _LOOK_S if some else min(2 * pause, _LONGEST_PAUSE_S)
        time.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311  jitter


def _fresh(api: Api, pod: str, seen: _Seen, strict: bool, query: Mapping[str, str]) -> Iterator[tuple[datetime, str]]:
    """Yield the lines of one connection that were not shown yet. A torn last line waits for the next connection."""
    known = seen.known()
    first = strict and bool(known)
    for raw in api.stream(f"{api.path('pods', pod)}/log", read_timeout=_SILENCE_S, **query, **seen.since()):
        if not raw.endswith(b"\n") and "follow" in query:
            return
        stamp, _, text = raw.decode(errors="replace").rstrip("\n").partition(" ")
        when = _time(stamp)
        if when is None:
            continue  # the kubelet's own words, such as "failed to watch file"
        if known[when, text] > 0:
            known[when, text] -= 1
            first = False
            continue
        if first:  # a new connection begins before the last line that was shown, unless the file with it is gone
            raise Missed
        seen.add(when, text)
        yield when, text


def _time(stamp: str) -> datetime | None:
    try:
        return datetime.fromisoformat(stamp)
    except ValueError:
        return None


def _runs(api: Api, pod: str) -> bool:
    """Tell whether a pod may still write; a server that does not answer has not said no."""
    try:
        phase = api.get(api.path("pods", pod)).get("status", {}).get("phase")
    except ApiError as exc:
        return exc.status != 404
    except ServiceDown:
        return True
    return phase not in _ENDED
