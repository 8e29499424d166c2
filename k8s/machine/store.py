"""The folder of a run: what was submitted, what is wanted of it, and what its attempts have become."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from filelock import FileLock

from jobs.contract.attempts import attempt_numbers, read_status
from jobs.contract.errors import BadConfig
from jobs.contract.files import write_json
from jobs.contract.lock import process_alive

RUNS = Path("artifacts/runs")


@dataclass(frozen=True, slots=True)
class Run:
    """One run's folder."""

    folder: Path

    @property
    def name(self) -> str:
        """The run's name."""
        return self.folder.name

    def document(self) -> dict[str, Any]:
        """Return run.json: the values as submitted, versions, lineage."""
        return _read(self.folder / "run.json")

    def control(self) -> dict[str, Any]:
        """Return what people want of the run: `stopped`, and per step the attempts that `resume` forgave."""
        return {"stopped": False, "forgiven": {}} | _read(self.folder / "control.json")

    def state(self) -> dict[str, Any]:
        """Return what the conductor last wrote: the local twin of the status ConfigMap."""
        return _read(self.folder / "state.json")

    def change_control(self, **values: Any) -> None:
        """Change what is wanted; the conductor sees it within a moment."""
        with FileLock(self.folder / ".control.lock", timeout=30):
            write_json(self.folder / "control.json", self.control() | values)

    def step_folder(self, step: str) -> Path:
        """Return the folder of a step's attempts."""
        return self.folder / "steps" / step

    def attempts(self, step: str) -> list[tuple[int, Path, dict[str, Any]]]:
        """Return number, folder and status of a step's attempts, oldest first."""
        folder = self.step_folder(step)
        found = [(number, folder / f"attempt-{number}") for number in attempt_numbers(folder)]
        return [(number, path, read_status(path)) for number, path in found]

    def conducted(self) -> bool:
        """Tell whether a conductor of this run lives."""
        conductor = self.state().get("conductor") or {}
        return bool(conductor) and process_alive(int(conductor["pid"]), float(conductor["started"]))

    def newborn(self) -> bool:
        """Tell whether it was submitted or resumed and its conductor lives, but has not written its first state yet.

        However long that takes: a machine under load needs half a minute to start a Python.
        """
        control = self.control()
        started = float(control.get("conductor_started_at", 0.0))
        if started <= float(self.state().get("updated", 0.0)):
            return False
        child = control.get("conductor")
        if child is None:  # its pid is not written down yet; whoever was about to may have died
            return time.time() - started < 15
        return process_alive(int(child["pid"]), float(child["started"]))


def _read(path: Path) -> dict[str, Any]:
    try:
        document = orjson.loads(path.read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return {}
    return document if isinstance(document, dict) else {}


def runs(root: Path = RUNS) -> Iterator[Run]:
    """Yield the runs on this volume, newest first."""
    found = [Run(path.parent) for path in root.glob("*/run.json")]
    yield from sorted(found, key=lambda run: float(run.document().get("created", 0.0)), reverse=True)


def find(name: str | None, root: Path = RUNS) -> Run:
    """Return the run of that name; without a name the newest one.

    Raises:
        BadConfig: there is none.
    """
    known = list(runs(root))
    if name is None and known:
        return known[0]
    match = [run for run in known if run.name == name]
    if not match:
        names = ", ".join(run.name for run in known[:8]) or "none yet; start one with `aios jobs submit`"
        raise BadConfig(f"no run named {name!r} under {root}" if name else f"no runs under {root}", needed=names)
    return match[0]
