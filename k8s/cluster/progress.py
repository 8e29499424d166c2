"""How far running steps are, read from their pods' logs: the volume with metrics.jsonl is not mounted here."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any

from jobs.contract.errors import AiosError
from k8s.cluster.client import Api
from k8s.cluster.logs import stamped_lines
from k8s.progress import logged, progress
from k8s.view import RunView

_TAIL = 200
KEPT_LINES = 8


class Tail:
    """The end of one pod's log and what it tells."""

    def __init__(self, api: Api, pod: str) -> None:
        self.api, self.pod = api, pod
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._rows: dict[str, dict[str, Any]] = {}
        self._first: tuple[datetime, int] | None = None
        self._last: tuple[datetime, int] | None = None
        self._thread: threading.Thread | None = None
        self._read(follow=False)

    def follow(self) -> None:
        """Go on reading beside the caller."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._read, kwargs={"follow": True}, daemon=True)
            self._thread.start()

    def progress(self) -> dict[str, Any]:
        """Return step, max_steps, loss, accuracy, margin and the seconds left, whatever of it is known."""
        shown = progress(self._rows.values())
        if self._first and self._last and self._last[1] > self._first[1]:
            pace_s = (self._last[0] - self._first[0]).total_seconds() / (self._last[1] - self._first[1])
            shown["remaining_s"] = round(pace_s * (shown["max_steps"] - self._last[1]), 1)
        return shown

    def _read(self, *, follow: bool) -> None:
        with suppress(AiosError):  # a picture without figures is better than none
            for when, line in stamped_lines(self.api, self.pod, follow=follow, tail=_TAIL):
                self._take(when, line)

    def _take(self, when: datetime, line: str) -> None:
        self.lines.append(line)
        row = logged(line)
        if row is None:
            return
        self._rows = self._rows | {row["kind"]: row}
        if self._first is None or row["step"] < self._first[1]:
            self._first = (when, row["step"])
        self._last = (when, row["step"])


class Tails:
    """The logs of the pods that run now."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self._tails: dict[str, Tail] = {}

    def added_to(self, view: RunView) -> RunView:
        """Return a picture with how far its running steps are and their last lines."""
        running = {step.pod for step in view.steps if step.state == "running"}
        if not running:
            return view
        steps = []
        for step in view.steps:
            if step.pod in running:
                tail = self._of(step.pod)
                step = replace(step, progress=tail.progress(), lines=tuple(tail.lines))
            steps.append(step)
        return replace(view, steps=tuple(steps))

    def _of(self, pod: str) -> Tail:
        """Return a pod's log: read once at the first call, followed from the second on."""
        tail = self._tails.get(pod)
        if tail is None:
            self._tails[pod] = tail = Tail(self.api, pod)
        else:
            tail.follow()
        return tail
