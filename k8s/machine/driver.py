"""The local driver: does what the conductor's pure function decides, with processes for Jobs.

It is started detached (`python -m k8s.machine.driver RUNS/RUN`), writes `state.json`, and keeps nothing that it could
not read again: killed at any moment, its successor adopts the steps that run. Two at once are one too many for a log,
but could not start anything twice either: an attempt's folder is claimed by one supervisor only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from jobs.contract.attempts import STATUS, STOP, claim, new_status
from jobs.contract.errors import AiosError, ExitCode
from jobs.contract.files import write_json
from jobs.contract.lock import process_alive, process_started
from jobs.contract.manifest import read_manifest
from k8s.conductor import Outcome, Phase, decide
from k8s.machine.observe import Observed, observe, step_states
from k8s.machine.spawn import detached
from k8s.machine.store import Run
from k8s.steps import STEPS
from k8s.values import command, enabled_steps, output_folder

_TICK_S = 0.2
_MAX_TROUBLES = 150
ORPHAN_GRACE_S = 120.0
"""How long a step whose supervisor died may take to notice, save and end, before it is killed."""


class Driver:
    """Conducts one run to its end."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.steps = enabled_steps(run.document()["values"])
        self._started: dict[str, tuple[int, subprocess.Popen[bytes]]] = {}
        self._orphaned_at: dict[str, float] = {}
        self._written: Any = None
        self._lineage: dict[str, Any] = {}

    def conduct(self) -> Outcome:
        """Work until the run has ended."""
        troubles = 0
        while True:
            try:
                outcome = self.tick()
            except OSError as exc:  # a full disk, a share that is away for a moment: the steps go on, so do we
                troubles += 1
                print(f"{time.strftime('%H:%M:%S')} {exc}", flush=True)  # noqa: T201  into conductor.log
                if troubles == _MAX_TROUBLES:
                    raise
                time.sleep(2)
                continue
            if outcome is not None:
                return outcome
            troubles = 0
            time.sleep(_TICK_S)

    def tick(self) -> Outcome | None:
        """Look, decide, act once. Returns how the run ended, None while it goes on."""
        control = self.run.control()
        observed = {name: self._observe(name, control) for name in self.steps}
        plan = decide(step_states(observed, self.steps), stopped=control["stopped"])
        self._write_state(observed, plan.skip, plan.outcome)
        if control["stopped"]:
            for seen in observed.values():
                request_stop(seen)
        for name in plan.release:
            self._launch(name, observed[name].number + 1)
        for name, seen in observed.items():
            if seen.retry_at is not None and time.time() >= seen.retry_at and not control["stopped"]:
                self._launch(name, seen.number + 1)
        self._write_lineage(observed)
        return plan.outcome

    def _observe(self, name: str, control: Mapping[str, Any]) -> Observed:
        if name in self._started:
            self._started[name][1].poll()  # reaps; what it says is on disk
        seen = observe(self.run, name, self.steps[name], control)
        if seen.orphaned and self._bury(name, seen):
            seen = observe(self.run, name, self.steps[name], control)
        return seen

    def _bury(self, name: str, seen: Observed) -> bool:
        """End what an attempt without a supervisor left running, and write down that it died. False: not over yet."""
        assert seen.folder is not None
        assert seen.status is not None
        pid, started = seen.status.get("pid"), seen.status.get("started")
        deadline = self._orphaned_at.setdefault(name, time.monotonic() + ORPHAN_GRACE_S)
        if pid and process_alive(int(pid), float(started or 0)):
            (seen.folder / STOP).touch()
            if time.monotonic() < deadline:
                return False
            _kill(int(pid))
            return False
        del self._orphaned_at[name]
        message = "its supervisor was killed; what it had saved is used by the next attempt"
        end = {"state": "failed", "exit_code": int(ExitCode.INTERNAL), "message": message, "finished_at": time.time()}
        write_json(seen.folder / STATUS, dict(seen.status) | end)
        return True

    def _launch(self, name: str, number: int) -> None:
        """Start a supervisor for attempt `number`, unless one that we started is on its way to it."""
        known = self._started.get(name)
        if known and known[0] == number:
            if known[1].poll() is not None:
                self._record_false_start(name, number)
            return
        step = self.steps[name]
        environment = {key: str(value) for key, value in step.get("env", {}).items()} | {
            "AIOS_RUN": self.run.name,
            "AIOS_STEP": name,
            "AIOS_OUTPUT": output_folder(name, step) if STEPS[name].manifest else "",
            "AIOS_RUNS_DIR": str(self.run.folder.parent),
            "AIOS_ATTEMPT": str(number),
            "AIOS_NPROC": str(step.get("processes", 1)),
        }
        arguments = [sys.executable, "-m", "jobs.supervisor", "--", *command(name, step)]
        process = detached(arguments, log=self.run.folder / "conductor.log", environment=environment)
        self._started[name] = (number, process)

    def _record_false_start(self, name: str, number: int) -> None:
        """Write down an attempt whose supervisor ended before it could: nobody else would count it."""
        status = new_status(self.run.name, name, None, command(name, self.steps[name]))
        message = f"the supervisor could not start; see {self.run.folder / 'conductor.log'}"
        end = {"state": "failed", "exit_code": int(ExitCode.INTERNAL), "message": message, "finished_at": time.time()}
        claim(self.run.step_folder(name), status, number, end)

    def _write_state(self, observed: Mapping[str, Observed], skip: tuple[str, ...], outcome: Outcome | None) -> None:
        steps = {
            name: {
                "phase": (Phase.SKIPPED if name in skip else seen.phase).value,
                "attempt": seen.number,
                "exit_code": (seen.status or {}).get("exit_code"),
                "message": (seen.status or {}).get("message", ""),
            }
            for name, seen in observed.items()
        }
        state = {"run": self.run.name, "phase": outcome.value if outcome else "running", "steps": steps}
        if state != self._written:
            conductor = {"pid": os.getpid(), "started": process_started()}
            write_json(self.run.folder / "state.json", state | {"conductor": conductor, "updated": time.time()})
            self._written = state

    def _write_lineage(self, observed: Mapping[str, Observed]) -> None:
        """Add the hashes of what each finished step read and made to run.json."""
        finished = {name for name, seen in observed.items() if seen.phase is Phase.SUCCEEDED}
        if finished <= self._lineage.keys():
            return
        for name in finished:
            self._lineage[name] = _lineage(Path(output_folder(name, self.steps[name])))
        write_json(self.run.folder / "run.json", self.run.document() | {"lineage": self._lineage})


def _lineage(folder: Path) -> dict[str, Any]:
    with contextlib.suppress(AiosError):
        manifest = read_manifest(folder)
        if manifest is not None:
            return {
                "output": folder.as_posix(),
                "inputs": manifest.inputs,
                "manifest_sha256": manifest.sha256,
                "content_sha256": manifest.content_sha256,
                "attempt_id": manifest.attempt,
            }
    return {"output": folder.as_posix()}


def request_stop(seen: Observed) -> None:
    """Ask a running attempt to save and end."""
    if seen.phase is Phase.RUNNING and seen.retry_at is None and seen.folder is not None:
        stop = seen.folder / STOP
        if not stop.exists():
            stop.touch()


def _kill(pid: int) -> None:
    with contextlib.suppress(OSError):
        if os.name == "nt":
            os.kill(pid, signal.SIGTERM)  # TerminateProcess
        else:
            os.killpg(pid, signal.SIGKILL)


def main(folder: str) -> int:
    """Conduct the run in `folder`; leave at once where another conductor does."""
    run = Run(Path(folder))
    try:
        # Whoever was asked to stop may be about to leave as `resume` starts us: wait for it a little.
        with FileLock(run.folder / ".conductor.lock", timeout=10):
            outcome = Driver(run).conduct()
    except Timeout:
        return int(ExitCode.DONE)
    return int(ExitCode.DONE if outcome is Outcome.SUCCEEDED else ExitCode.INTERNAL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
