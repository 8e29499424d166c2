"""The folder of one attempt at a step, `RUN/steps/STEP/attempt-N/`: what supervisors write and the launcher reads.

Claimed by exactly one supervisor and complete from its first instant. `status.json` is the state, rewritten every few
seconds as a heartbeat; `events.jsonl` says what happened when; whoever creates `stop` asks the step to save and end.
"""

from __future__ import annotations

import os
import platform
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from jobs.contract.files import make_folder, remove_tree, write_json
from jobs.contract.lock import process_alive, process_started
from jobs.contract.places import check_place

STATUS = "status.json"
EVENTS = "events.jsonl"
STDOUT = "stdout.log"
STOP = "stop"
RESULT = "result.json"


@dataclass(kw_only=True, slots=True)
class Attempt:
    """One attempt at one step of one run."""

    folder: Path
    number: int
    status: dict[str, Any] = field(default_factory=dict)

    def update(self, **values: Any) -> None:
        """Change the status on disk; a reader sees the old one or the new."""
        self.status |= values | {"heartbeat": time.time()}
        write_json(self.folder / STATUS, self.status)

    def event(self, name: str, **details: Any) -> None:
        """Append what happened to events.jsonl."""
        line = {"time": round(time.time(), 3), "event": name} | details
        with (self.folder / EVENTS).open("ab") as file:
            file.write(orjson.dumps(line) + b"\n")


def claim(
    step_folder: Path, status: dict[str, Any], number: int | None, more: dict[str, Any] | None = None
) -> Attempt | None:
    """Make the folder of the next attempt, or of attempt `number`: None when somebody has that one already.

    The folder is filled beside its place and renamed into it. A rename onto a folder that holds something fails, so
    one of two supervisors that want the same number gets it, and nobody ever sees an attempt without a status.
    """
    check_place(step_folder)
    make_folder(step_folder)
    draft = step_folder / f".attempt-{uuid.uuid4().hex}"
    draft.mkdir()
    try:
        while True:
            wanted = number or 1 + max(attempt_numbers(step_folder), default=0)
            target = step_folder / f"attempt-{wanted}"
            attempt = Attempt(folder=draft, number=wanted, status=dict(status))
            attempt.update(**{"attempt": wanted, "state": "starting"} | (more or {}))
            try:
                os.rename(draft, target)  # noqa: PTH104  Path.rename is the same call; this one says that it must not replace
            except OSError:
                if not target.exists():
                    raise
                if number is not None:
                    return None
            else:
                attempt.folder = target
                return attempt
    finally:
        remove_tree(draft)


def attempt_numbers(step_folder: Path) -> list[int]:
    """Return the numbers of the attempts of a step, oldest first."""
    names = [path.name.removeprefix("attempt-") for path in step_folder.glob("attempt-*")]
    return sorted(int(name) for name in names if name.isdigit())


def read_status(folder: Path) -> dict[str, Any]:
    """Return the status of an attempt's folder; empty where there is none."""
    try:
        status = orjson.loads((folder / STATUS).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return status if isinstance(status, dict) else {}


def supervised(status: dict[str, Any]) -> bool:
    """Tell whether the supervisor that wrote this status lives, on this machine."""
    supervisor = status.get("supervisor") or {}
    return bool(supervisor) and process_alive(int(supervisor["pid"]), float(supervisor["started"]))


def new_status(run: str, step: str, output: str | None, command: Sequence[str]) -> dict[str, Any]:
    """Return the status that an attempt starts with; the supervisor's start time tells it from a recycled pid."""
    return {
        "run": run,
        "step": step,
        "attempt_id": uuid.uuid4().hex,
        "command": list(command),
        "output": output,
        "host": platform.node(),
        "supervisor": {"pid": os.getpid(), "started": process_started()},
        "started_at": time.time(),
        "finished_at": None,
        "pid": None,
        "exit_code": None,
        "message": "",
        "manifest_sha256": None,
    }
