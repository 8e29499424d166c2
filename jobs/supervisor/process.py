"""The supervisor's work: start the step, forward signals, keep the heartbeat, write down the end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from jobs.contract.attempts import RESULT, STDOUT, STOP, Attempt, claim, new_status
from jobs.contract.errors import BadConfig, ExitCode, from_os_error
from jobs.contract.files import write_atomic
from jobs.contract.lock import process_started
from jobs.contract.redact import guard_output, redact, redact_bytes, secret_values
from jobs.supervisor.memory import out_of_memory, peak_bytes
from jobs.supervisor.outcome import Outcome, judge, read_results
from jobs.supervisor.record import lineage, record_run

HEARTBEAT_S = 3.0
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
    folder = Path(os.environ.get("AIOS_RUNS_DIR", "artifacts/runs")) / run / "steps" / step
    rank = os.environ.get("PET_NODE_RANK", "0")
    if rank != "0":
        folder = folder / f"node-{rank}"  # pods of one gang keep their records apart; the first one publishes
    wanted = os.environ.get("AIOS_ATTEMPT")
    status = new_status(run, step, os.environ.get("AIOS_OUTPUT") if rank == "0" else None, command)
    attempt = claim(folder, status, int(wanted) if wanted else None)
    record_run(Path(os.environ.get("AIOS_RUNS_DIR", "artifacts/runs")) / run)
    if attempt is None:
        return int(ExitCode.DONE)  # another supervisor has this attempt: nothing to do, nothing to report
    return Supervisor(attempt).run(command)


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
        self._done = threading.Event()
        output = attempt.status["output"]
        self.output = Path(output) if output else None

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
        echo = threading.Thread(target=self._echo, args=(log,), daemon=True)
        echo.start()
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
            memory=out_of_memory(),
        )
        return self._finish(outcome, returncode, echo)

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
            time.sleep(_TICK_S)

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

    def _finish(self, outcome: Outcome, returncode: int, echo: threading.Thread) -> int:
        self._done.set()
        echo.join(timeout=5)
        with contextlib.suppress(OSError):
            scrub(self.attempt.folder / STDOUT)
        final: dict[str, Any] = {
            "state": outcome.state,
            "exit_code": outcome.exit_code,
            "message": redact(outcome.message),
            "manifest_sha256": outcome.manifest_sha256,
        }
        if outcome.exit_code == 0:
            final["lineage"] = lineage(self.output)
        with contextlib.suppress(OSError):
            self.attempt.event("finished", returncode=returncode, peak_memory_bytes=peak_bytes(), **final)
            self.attempt.update(finished_at=time.time(), **final)
        more = {"attempt": self.attempt.number, "attempt_id": self.attempt.status["attempt_id"]}
        if outcome.exit_code != 0:
            more["log"] = redact(_last_lines(self.attempt.folder / STDOUT))
        outcome = replace(outcome, message=redact(outcome.message))
        write_termination_message(outcome.termination_message(**more))
        return outcome.exit_code

    def _echo(self, log: Path) -> None:
        """Copy the log to our own output, for `kubectl logs`; a thread, since a stalled reader may block it."""
        rest, secret = b"", bool(secret_values())
        with contextlib.suppress(OSError, ValueError), log.open("rb") as file:
            while True:
                last = self._done.is_set()
                while chunk := file.read(1 << 16):
                    # Our output hides secrets: whole lines, so that none is cut in two and missed.
                    whole, rest = _whole_lines(rest + chunk) if secret else (chunk, b"")
                    sys.stdout.buffer.write(whole)
                    sys.stdout.buffer.flush()
                if last:
                    sys.stdout.buffer.write(rest)
                    sys.stdout.buffer.flush()
                    return
                time.sleep(_TICK_S)


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


def _whole_lines(content: bytes) -> tuple[bytes, bytes]:
    """Return the whole lines, and the rest; a line that never ends is let go at 64 KB."""
    end = content.rfind(b"\n") + 1
    return (content, b"") if len(content) - end > 1 << 16 else (content[:end], content[end:])


def scrub(log: Path) -> None:
    """Take secrets out of a finished log: what the step itself prints hides them, native code beneath it may not."""
    values = secret_values()
    if values and any(value.encode() in log.read_bytes() for value in values):
        write_atomic(log, redact_bytes(log.read_bytes(), values))


def _started(pid: int) -> float | None:
    with contextlib.suppress(psutil.Error):
        return process_started(pid)
    return None


def _last_lines(log: Path, limit: int = 1800) -> str:
    """Return the end of the log, whole lines, for the termination message."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - limit))
        text = file.read().decode(errors="replace")
        return text if size <= limit else text.partition("\n")[2]
    return ""
