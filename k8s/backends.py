"""The two places where runs live, behind the same six questions: this machine, and a namespace of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from k8s.values import Values
from k8s.view import RunView

if TYPE_CHECKING:
    from k8s.cluster.runs import Picture


class Backend(Protocol):
    """What `aios jobs` and the panel ask."""

    def submit(self, values: Values, profile: str) -> str:
        """Start a run and return its name."""

    def runs(self) -> list[RunView]:
        """Return all runs, the newest first."""

    def find(self, name: str | None) -> str:
        """Return the name of a run that is there; without a name the newest one's."""

    def look(self, name: str) -> Callable[[], RunView]:
        """Return a function that gives the present picture of a run, cheaply, again and again."""

    def steps(self, name: str) -> list[str]:
        """Return the steps of a run."""

    def logs(self, name: str, steps: list[str], *, follow: bool) -> Iterator[tuple[str, int, str]]:
        """Yield step, attempt and line."""

    def stop(self, name: str) -> RunView:
        """Ask a run to save and end."""

    def resume(self, name: str) -> RunView:
        """Go on with it."""


class Local:
    """Runs on this machine."""

    def submit(self, values: Values, profile: str) -> str:
        """Write the run down and start its conductor."""
        from k8s.machine import backend

        return backend.submit(values, profile=profile).name

    def runs(self) -> list[RunView]:
        """Return what artifacts/runs holds."""
        from k8s.machine import observe, store

        return [observe.view(run) for run in store.runs()]

    def find(self, name: str | None) -> str:
        """Return the name of a run that is there."""
        from k8s.machine import store

        return store.find(name).name

    def look(self, name: str) -> Callable[[], RunView]:
        """Read the run's files."""
        from k8s.machine import observe, store

        run = store.find(name)
        return lambda: observe.view(run)

    def steps(self, name: str) -> list[str]:
        """Return the steps of a run."""
        return [step.name for step in self.look(name)().steps]

    def logs(self, name: str, steps: list[str], *, follow: bool) -> Iterator[tuple[str, int, str]]:
        """Read the attempts' files."""
        from k8s.machine import logs, store

        look = self.look(name)
        return logs.stream(store.find(name), steps, follow=follow, ended=lambda: look().ended)

    def stop(self, name: str) -> RunView:
        """Mark it, then ask its steps."""
        from k8s.machine import backend, store

        return backend.stop(store.find(name))

    def resume(self, name: str) -> RunView:
        """Forgive failures and start a conductor."""
        from k8s.machine import backend, store

        return backend.resume(store.find(name))


class Cluster:
    """Runs in a namespace of a cluster. Nothing of them depends on this process."""

    def __init__(self, context: str | None = None, namespace: str | None = None) -> None:
        from k8s.cluster.client import Api
        from k8s.cluster.config import connect

        self.api = Api(connect(context, namespace))
        self.shared: Picture | None = None
        """Set by who keeps a picture of all runs anyway; else each question watches the run that it is about."""

    def submit(self, values: Values, profile: str) -> str:
        """`helm install` the run."""
        from k8s.cluster import actions

        actions.submit(self.api, values)
        return str(values["run"]["name"])

    def runs(self) -> list[RunView]:
        """Return the newest release of each run."""
        from k8s.cluster import runs

        if not runs.releases(self.api):
            return []
        picture = self._picture(None)
        views: dict[str, RunView] = {}
        for status in picture.releases():
            view = picture.view(release_of(status))
            views.setdefault(view.name, view)
        return list(views.values())

    def find(self, name: str | None) -> str:
        """Return the name of a run that is there."""
        from k8s.cluster import names, runs
        from k8s.cluster.client import find

        release = runs.newest_release(self.api, name)
        status = find(self.api, "configmaps", names.status(release)) or {}
        return str(status.get("metadata", {}).get("labels", {}).get(names.RUN, release))

    def installed(self, name: str) -> bool:
        """Tell whether the namespace has a release of a run."""
        from k8s.cluster import runs

        return bool(runs.releases(self.api, name))

    def look(self, name: str) -> Callable[[], RunView]:
        """Watch the run's objects; looking reads what the watches brought. A successor (RUN-r2) is followed."""
        return self._looking(self._picture(name), name)

    def _looking(self, picture: Picture, name: str) -> Callable[[], RunView]:
        from k8s.cluster.progress import Tails

        tails = Tails(self.api)

        def now() -> RunView:
            releases = picture.releases(name)
            if not releases:
                return RunView(name=name, phase="abandoned", profile="kubernetes", message="it was uninstalled")
            return tails.added_to(picture.view(release_of(releases[0])))

        return now

    def steps(self, name: str) -> list[str]:
        """Return the steps of a run."""
        return [step.name for step in self.look(name)().steps]

    def logs(self, name: str, steps: list[str], *, follow: bool) -> Iterator[tuple[str, int, str]]:
        """Read pods' logs, and the last lines of pods that are gone."""
        from k8s.cluster import logs

        picture = self._picture(name)

        def newest() -> str:
            return release_of(next(iter(picture.releases(name)), {}))

        def ended() -> bool:
            release = newest()
            return not release or picture.view(release).ended

        return logs.stream(picture, newest, steps, follow=follow, ended=ended)

    def without_pods(self, name: str, steps: list[str]) -> list[str]:
        """Return the steps of which `logs` has the last lines only: their pods are gone."""
        from k8s.cluster import logs

        picture = self._picture(name)
        return logs.gone(picture, release_of(next(iter(picture.releases(name)), {})), steps)

    def stop(self, name: str) -> RunView:
        """Mark and suspend its Jobs."""
        from k8s.cluster import actions, runs

        before = self.look(name)()
        if before.phase not in ("succeeded", "failed"):
            actions.stop(self.api, runs.newest_release(self.api, name))
        return self.look(name)()

    def resume(self, name: str) -> RunView:
        """Unsuspend it, or install its successor."""
        from k8s.cluster import actions, runs

        before = self.look(name)()
        if before.phase != "succeeded":
            actions.resume(self.api, runs.newest_release(self.api, name))
        return self.look(name)()

    def forget_vanished(self, name: str) -> list[str]:
        """Delete pods that their nodes never confirmed to have ended; returns their names."""
        from k8s.cluster import actions, runs

        return actions.forget_vanished(self.api, runs.newest_release(self.api, name))

    def restore(self, name: str, place: Values) -> RunView:
        """Install a run again whose release is gone, from what it left on the claim that `place` names."""
        from k8s.cluster import actions, files

        actions.submit(self.api, files.recorded_values(self.api, place, name))
        return self.look(name)()

    def _picture(self, name: str | None) -> Picture:
        from k8s.cluster.runs import Picture

        return self.shared or Picture(self.api, name).start()


def release_of(status: Mapping[str, Any]) -> str:
    """Return the release that a status object belongs to."""
    return str(status.get("metadata", {}).get("name", "")).removesuffix("-status")
