"""Runs in a namespace of a cluster, beside those of the workspace; kept by watches, so that looking costs no call."""

from __future__ import annotations

import threading
from typing import Any

from jobs.contract.errors import AiosError
from k8s.backends import Cluster
from k8s.view import RunView


class ClusterRuns:
    """The runs of one namespace. Whatever is asked of them goes through the functions of `aios jobs`."""

    def __init__(self, context: str | None, namespace: str | None) -> None:
        from k8s.cluster.runs import Picture

        self.place = Cluster(context, namespace)
        self.picture = Picture(self.place.api).start()
        self._values: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()

    def views(self) -> dict[str, RunView]:
        """Return the newest release of each run."""
        views: dict[str, RunView] = {}
        for status in self.picture.releases():
            view = self.picture.view(status["metadata"]["name"].removesuffix("-status"))
            views.setdefault(view.name, view)
        return views

    def values(self, name: str) -> dict[str, Any]:
        """Return the values that a run was installed with; they never change."""
        from k8s.cluster.runs import newest_release, stored_values

        with self._lock:
            if name not in self._values:
                self._values[name] = dict(stored_values(self.place.api, newest_release(self.place.api, name)))
            return self._values[name]

    def log(self, name: str, step: str, count: int = 400) -> tuple[str, ...]:
        """Return the last lines of a step, from its pods; empty where there is none yet."""
        try:
            lines = [line for _, _, line in self.place.logs(name, [step], follow=False)]
        except AiosError as exc:
            return (str(exc),)
        return tuple(lines[-count:])
