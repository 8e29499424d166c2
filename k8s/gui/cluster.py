"""Runs in a namespace of a cluster, beside those of the workspace; kept by watches, so that looking costs no call."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

from jobs.contract.errors import AiosError
from k8s.backends import Cluster
from k8s.cluster import names
from k8s.gui.files import inside
from k8s.progress import read_progress
from k8s.values import output_folder
from k8s.view import RunView, StepView

_ASK_PODS_S = 2.0
_APPEARS_S = 15.0
_KEPT_LINES, _KEPT_LOGS = 5000, 8


class ClusterRuns:
    """The runs of one namespace. Whatever is asked of them goes through the functions of `aios jobs`."""

    def __init__(self, context: str | None, namespace: str | None) -> None:
        from k8s.cluster.runs import Picture

        self.place = Cluster(context, namespace)
        self.picture = self.place.shared = Picture(self.place.api).start()
        self._values: dict[str, dict[str, Any]] = {}
        self._logs: dict[tuple[str, str], tuple[float, tuple[str, ...]]] = {}
        self._lock = threading.Lock()

    def views(self) -> dict[str, RunView]:
        """Return the newest release of each run."""
        views: dict[str, RunView] = {}
        for status in self.picture.releases():
            view = self.picture.view(status["metadata"]["name"].removesuffix("-status"))
            views.setdefault(view.name, view)
        # Of those that have ended a list need not know; their own page asks.
        return {name: view if view.ended else self.with_progress(view) for name, view in views.items()}

    def has(self, name: str) -> bool:
        """Tell whether the namespace knows a run."""
        return any(_run_of(status) == name for status in tuple(self.picture.statuses.objects.values()))

    def await_run(self, name: str) -> None:
        """Wait until the watches have brought a run that was just installed; whoever started it looks at it next."""
        deadline = time.monotonic() + _APPEARS_S
        while not self.has(name) and time.monotonic() < deadline:
            time.sleep(0.05)

    def with_progress(self, view: RunView) -> RunView:
        """Add how far the steps are, where the volume is mounted here too."""
        if not any(step.attempt for step in view.steps):
            return view
        steps = self.values(view.name).get("steps", {})
        return replace(view, steps=tuple(_progressed(step, steps) for step in view.steps))

    def values(self, name: str) -> dict[str, Any]:
        """Return the values that a run was installed with; they never change."""
        from k8s.cluster.runs import newest_release, stored_values

        with self._lock:
            if name not in self._values:
                self._values[name] = dict(stored_values(self.place.api, newest_release(self.place.api, name)))
            return self._values[name]

    def log(self, name: str, step: str) -> tuple[str, ...]:
        """Return the last lines of a step, from its pods; those are asked every other second, whoever looks."""
        asked, said = self._logs.get((name, step), (-_ASK_PODS_S, ()))
        if time.monotonic() - asked < _ASK_PODS_S:
            return said
        try:
            said = tuple(line for _, _, line in self.place.logs(name, [step], follow=False))[-_KEPT_LINES:]
        except AiosError as exc:
            said = (str(exc),)
        self._logs = dict([*self._logs.items(), ((name, step), (time.monotonic(), said))][-_KEPT_LOGS:])
        return said


def _run_of(status: dict[str, Any]) -> str:
    return str((status["metadata"].get("labels") or {}).get(names.RUN, ""))


def _progressed(step: StepView, steps: dict[str, Any]) -> StepView:
    if not step.attempt or step.name not in steps:
        return step
    try:
        folder = inside(output_folder(step.name, steps[step.name]))
    except AiosError:
        return step
    return replace(step, progress=read_progress(folder / "metrics.jsonl"))
