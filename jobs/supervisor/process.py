"""The supervisor's work: start the step, forward signals, keep the heartbeat, write down the end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from jobs.contract.attempts import RESULT, STDOUT, STOP, Attempt, claim, new_status
from jobs.contract.errors import BadConfig, ExitCode, from_os_error
from jobs.contract.lock import process_started
from jobs.contract.redact import guard_output, redact
from jobs.supervisor.log import StepLog
from jobs.supervisor.memory import Memory
from jobs.supervisor.outcome import Outcome, judge, read_results
from jobs.supervisor.progress import Watchdog
from jobs.supervisor.record import lineage, record_run, record_status

HEARTBEAT_S = float(os.environ.get("AIOS_HEARTBEAT_S", "3"))
HUNG_FILE = Path(tempfile.gettempdir()) / "aios-hung"
"""There while a step in a pod hangs; the pod's readiness probe reads it out, which is how the conductor hears of it."""
_TICK_S = 0.1
_WINDOWS = os.name == "nt"


def main(arguments: Sequence[str]) -> int:
    """Run one attempt of one step and return its exit code."""
    guard_output()
    try:
        return _run(list(arguments[1:] if arguments[:1] == ["--"] else arguments))
    except BadConfig as exc:
        return _refuse(int(exc.exit_code), str(exc))
    except OSError as exc:
        error = from_os_error(exc)
        return _refuse(int(error.exit_code), str(error))


def _run(command: list[str]) -> int:
    run, step = os.environ.get("AIOS_RUN"), os.environ.get("AIOS_STEP")
    if not (command and run and step):
        raise BadConfig("the supervisor was started without AIOS_RUN, AIOS_STEP or a command", next_step="set them")
    folder = _run_folder(run) / "steps" / step
    rank = os.environ.get("PET_NODE_RANK", "0")
    if rank != "0":
        folder = folder / f"node-{rank}"  # pods of one gang keep their records apart; the first one publishes
    wanted = os.environ.get("AIOS_ATTEMPT")
    status = new_status(run, step, os.environ.get("AIOS_OUTPUT") if rank == "0" else None, command)
    attempt = claim(folder, status, int(wanted) if wanted else None)
    record_run(_run_folder(run))
    if attempt is None:
        return int(ExitCode.DONE)  # another supervisor has this attempt: nothing to do, nothing to report
    return Supervisor(attempt).run(command)


def _run_folder(run: str) -> Path:
    return Path(os.environ.get("AIOS_RUNS_DIR", "artifacts/runs")) / run


def _refuse(code: int, message: str) -> int:
    """End before there is an attempt: say it where both a person and Kubernetes look."""
    sys.stderr.write(f"Error: {message}\n")
    write_termination_message(Outcome(state="failed", exit_code=code, message=message).termination_message())
    return code


def write_termination_message(content: bytes) -> None:
    """Leave the last message for the kubelet: written in place, since the file is a mount of its own."""
    path = Path(os.environ.get("AIOS_TERMINATION_LOG", "/dev/termination-log"))
    if path.exists():
        with contextlib.suppress(OSError):
            path.write_bytes(content)


class Supervisor:
    """Watches over one child process."""

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self.stop_requests = 0
        self._stop_seen = 0
        self._stopped_at = 0.0
        output = attempt.status["output"]
        self.output = Path(output) if output else None
        self.memory = Memory()
        self.watchdog = Watchdog(self.output, attempt.folder / STDOUT)
        self._ended_as_hung = ""

    def run(self, command: Sequence[str]) -> int:
        """Start the step, wait for its end, judge it."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        log = self.attempt.folder / STDOUT
        with log.open("ab") as stdout:
            child = subprocess.Popen(
                real_command(command),
                stdin=subprocess.DEVNULL,
                # A file, not a pipe: a supervisor that dies or stalls never takes the step with it.
                stdout=stdout,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                start_new_session=not _WINDOWS,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        self.output_log = StepLog(log)
        self.output_log.start()
        with contextlib.suppress(OSError):
            self.attempt.update(state="running", pid=child.pid, started=_started(child.pid))
            self.attempt.event("started", pid=child.pid, command=list(command))
        returncode = self._wait(child)
        _kill_group(child)
        outcome = judge(
            returncode,
            results=list(read_results(self.attempt.folder / RESULT)),
            attempt_id=self.attempt.status["attempt_id"],
            output=self.output,
            stopping=self.stop_requests > 0,
            shortage=self.memory.shortage(),
            hung=self._ended_as_hung,
            grow=bool(os.environ.get("AIOS_GROW_MEMORY")),
        )
        return self._finish(outcome, returncode)

    def _environment(self) -> dict[str, str]:
        supervisor = self.attempt.status["supervisor"]
        return os.environ | {
            "AIOS_ATTEMPT_ID": self.attempt.status["attempt_id"],
            "AIOS_RESULT_FILE": str((self.attempt.folder / RESULT).absolute()),
            "AIOS_STOP_FILE": str((self.attempt.folder / STOP).absolute()),
            "AIOS_SUPERVISOR": f"{supervisor['pid']}:{supervisor['started']}",
            "PYTHONUNBUFFERED": "1",
        }

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.stop_requests += 1

    def _wait(self, child: subprocess.Popen[bytes]) -> int:
        """Wait for the child; meanwhile pass on requests to stop, beat, and reap what else is ours as PID 1."""
        beat = time.monotonic()
        while True:
            returncode = _reap(child)
            if returncode is not None:
                return returncode
            self._pass_on_stop(child)
            if time.monotonic() - beat >= HEARTBEAT_S:
                beat = time.monotonic()
                # A full disk must not kill the training; the end is reported by exit code as well.
                with contextlib.suppress(OSError):
                    self.attempt.update()
                    record_status(_run_folder(self.attempt.status["run"]))
                self._watch(child)
            time.sleep(_TICK_S)

    def _watch(self, child: subprocess.Popen[bytes]) -> None:
        """Say it where people and Kubernetes look when the step hangs, and when it goes on after all."""
        if not self.watchdog.look():
            return
        hung = self.watchdog.hung
        dumped = self.watchdog.dump(child.pid) if hung else 0
        with contextlib.suppress(OSError):
            self.attempt.event("hung" if hung else "goes on", message=hung, stacks=dumped)
            self.attempt.update(hung=hung)
        with contextlib.suppress(OSError):
            HUNG_FILE.unlink(missing_ok=True)
            if hung and os.getpid() == 1:
                HUNG_FILE.write_text(f"hung: {hung}\n", encoding="utf-8")
        if hung and os.environ.get("AIOS_ON_HANG") == "restart":
            self._ended_as_hung = f"{hung}; ended, to go on from the last checkpoint"
            _kill_group(child)

    def _pass_on_stop(self, child: subprocess.Popen[bytes]) -> None:
        stop_file = self.attempt.folder / STOP
        if self.stop_requests == 0 and stop_file.exists():
            self.stop_requests = 1
        patience = float(os.environ.get("AIOS_KILL_AFTER_S", "inf"))
        if self._stop_seen == 1 and time.monotonic() - self._stopped_at > patience:
            self.stop_requests = max(self.stop_requests, 2)
        if self.stop_requests <= self._stop_seen:
            return
        first, self._stop_seen = self._stop_seen == 0, self.stop_requests
        with contextlib.suppress(OSError):
            self.attempt.event("stop" if self.stop_requests == 1 else "kill")
        if first:
            self._stopped_at = time.monotonic()
            with contextlib.suppress(OSError):
                stop_file.touch()
            if not _WINDOWS:
                child.send_signal(signal.SIGTERM)
        if self.stop_requests >= 2:
            _kill_group(child)

    def _finish(self, outcome: Outcome, returncode: int) -> int:
        self.output_log.finish()
        memory = self.memory.figures()
        final: dict[str, Any] = {
            "state": outcome.state,
            "exit_code": outcome.exit_code,
            "message": redact(outcome.message),
            "manifest_sha256": outcome.manifest_sha256,
        } | ({"cause": outcome.cause} if outcome.cause else {})
        if outcome.exit_code == 0:
            final["lineage"] = lineage(self.output)
        with contextlib.suppress(OSError):
            self.attempt.event("finished", returncode=returncode, peak_memory_bytes=memory.get("peak"), **final)
            self.attempt.update(finished_at=time.time(), **final)
            record_status(_run_folder(self.attempt.status["run"]))
        more: dict[str, Any] = {"attempt": self.attempt.number, "attempt_id": self.attempt.status["attempt_id"]}
        if memory:
            more["memory"] = memory
        if outcome.exit_code != 0:
            more["log"] = redact(self.output_log.tail())
        outcome = replace(outcome, message=redact(outcome.message))
        write_termination_message(outcome.termination_message(**more))
        return outcome.exit_code


def real_command(command: Sequence[str]) -> list[str]:
    """Return what is executed: `aios` of this very installation, under torchrun where several processes are asked."""
    if command[0] != "aios":
        return list(command)
    processes = int(os.environ.get("AIOS_NPROC", "1"))
    nodes = int(os.environ.get("PET_NNODES", "1"))
    if processes * nodes == 1:
        return [sys.executable, "-m", "jobs.cli", *command[1:]]
    # A rank that dies ends the gang: the Job's own retry starts all of them again from one checkpoint.
    launch = ["-m", "torch.distributed.run", "--max-restarts=0", f"--nproc-per-node={processes}"]
    if nodes == 1:
        launch.append("--standalone")
    return [sys.executable, *launch, "-m", "jobs.cli", *command[1:]]


def _reap(child: subprocess.Popen[bytes]) -> int | None:
    """Return the child's exit status once it ended. As PID 1 we inherit orphans, and reap them here too."""
    if _WINDOWS or os.getpid() != 1:
        return child.poll()
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child.pid:
                child.returncode = os.waitstatus_to_exitcode(ended[1])
    return child.returncode


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    """End the step and what it started (data loaders, ranks), so that nothing writes after the verdict."""
    if _WINDOWS:
        child.kill()
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


def _started(pid: int) -> float | None:
    with contextlib.suppress(psutil.Error):
        return process_started(pid)
    return None
