"""All runs of the volume as one picture that every open page shares; it holds nothing that the files do not say."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

from jobs.contract.errors import AiosError, BadConfig
from k8s.backends import Backend, Local
from k8s.gui.cluster import ClusterRuns
from k8s.gui.files import inside
from k8s.machine import observe
from k8s.machine.store import RUNS, Run
from k8s.values import enabled_steps, output_folder
from k8s.view import RunView

_SIGNATURE_FILES = ("run.json", "control.json", "state.json")
_Signature = tuple[int, ...]


class RunBook:
    """The runs, newest first. A run that has ended is read again only when one of its files changes."""

    def __init__(self) -> None:
        self.views: tuple[RunView, ...] = ()
        self.read_at = 0.0
        self.cluster: ClusterRuns | None = None
        """Where runs of a namespace are shown too."""
        self._known: dict[str, tuple[_Signature, RunView]] = {}
        self._lock = threading.Lock()

    def refresh(self, max_age_s: float = 0.0) -> tuple[RunView, ...]:
        """Read what has changed, unless that was done so recently. Called from threads, by many at once."""
        with self._lock:
            if time.monotonic() - self.read_at < max_age_s:
                return self.views
            known = {}
            for name, folder in _folders():
                signature = _signature(folder)
                before = self._known.get(name)
                if before and before[0] == signature and before[1].ended:
                    known[name] = before
                else:
                    known[name] = (signature, look(Run(folder)))
            self._known = known
            views = {name: view for name, (_, view) in known.items()}
            if self.cluster is not None:
                # The volume keeps the records of a cluster's run too; how it stands now its namespace knows best.
                views |= self.cluster.views()
            self.views = tuple(sorted(views.values(), key=lambda v: v.created, reverse=True))
            self.read_at = time.monotonic()
            return self.views

    def find(self, name: str) -> RunView:
        """Return a run as it stands now.

        Raises:
            BadConfig: there is none of that name.
        """
        view = _named(self.refresh(0.3), name) or _named(self.refresh(), name)  # it may be younger than the picture
        if view is None:
            raise BadConfig(f"no run named {name!r}", next_step="see the list of runs")
        if view.ended and self.cluster is not None and self.cluster.has(name):
            return self.cluster.with_progress(view)
        return view


def _named(views: tuple[RunView, ...], name: str) -> RunView | None:
    return next((view for view in views if view.name == name), None)


def _folders() -> list[tuple[str, Path]]:
    try:
        with os.scandir(RUNS) as entries:
            # A link could lead anywhere; runs are folders that we made.
            return [(e.name, RUNS / e.name) for e in entries if e.name[0] != "." and e.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _signature(folder: Path) -> _Signature:
    found = []
    for name in _SIGNATURE_FILES:
        try:
            stat = (folder / name).stat()
            found += [stat.st_mtime_ns, stat.st_size]
        except OSError:
            found += [0, 0]
    return tuple(found)


def look(run: Run) -> RunView:
    """Return the picture of a run; one whose files make no sense is shown as such instead of hiding the others."""
    try:
        for name, step in enabled_steps(run.document()["values"]).items():
            inside(output_folder(name, step))
        return observe.view(run)
    except AiosError as exc:
        return RunView(name=run.name, phase="unreadable", message=str(exc))
    except Exception as exc:
        return RunView(name=run.name, phase="unreadable", message=f"run.json: {type(exc).__name__}: {exc}")


def in_cluster(name: str) -> ClusterRuns | None:
    """Return where a run lives, if that is the cluster."""
    return BOOK.cluster if BOOK.cluster is not None and BOOK.cluster.has(name) else None


def place_of(name: str) -> Backend:
    """Return whom to ask to stop or resume a run."""
    found = in_cluster(name)
    return found.place if found else Local()


def values_of(name: str) -> dict[str, Any]:
    """Return the values that a run was submitted with."""
    if found := in_cluster(name):
        return found.values(name)
    values = run_of(name).document().get("values")
    return values if isinstance(values, dict) else {}


def run_of(name: str) -> Run:
    """Return the run of that name.

    Raises:
        BadConfig: there is none.
    """
    folder = RUNS / name
    if Path(name).name != name or not (inside(folder) / "run.json").is_file():
        raise BadConfig(f"no run named {name!r}", next_step="see the list of runs")
    return Run(folder)


def folder_of(values: dict[str, Any], step: str) -> Path:
    """Return the folder that a step of these values publishes, as the workspace names it.

    Raises:
        BadConfig: it lies outside the workspace.
    """
    folder = output_folder(step, values["steps"][step])
    inside(folder)
    return Path(folder)


BOOK = RunBook()
"""The one of this server."""
