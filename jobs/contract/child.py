"""What a step and its supervisor tell each other, through the environment and two small files.

AIOS_ATTEMPT_ID      id of this attempt; goes into the manifest
AIOS_RESULT_FILE     where the step writes its outcome: {"exit_code", "message", "manifest_sha256", "skipped"};
                     rank N of a distributed step writes it with the suffix `.rank-N`
AIOS_STOP_FILE       appears when the step shall save and end; the portable twin of SIGTERM
AIOS_SUPERVISOR      "pid:start time" of the supervisor; a step whose supervisor is gone stops by itself
"""

from __future__ import annotations

import faulthandler
import os
import signal
from pathlib import Path
from typing import Any

from jobs.contract.files import write_json
from jobs.contract.lock import process_alive
from jobs.contract.redact import redact


def report_result(**result: Any) -> None:
    """Write the outcome for the supervisor; without one (a person runs the command) do nothing."""
    path = os.environ.get("AIOS_RESULT_FILE")
    if path:
        result = {key: redact(value) if isinstance(value, str) else value for key, value in result.items()}
        rank = os.environ.get("RANK", "0")
        write_json(Path(path if rank == "0" else f"{path}.rank-{rank}"), result)


def stop_requested() -> bool:
    """Tell whether the supervisor asks this step to save and end, or is itself gone."""
    stop_file = os.environ.get("AIOS_STOP_FILE")
    if stop_file and Path(stop_file).exists():
        return True
    supervisor = os.environ.get("AIOS_SUPERVISOR")
    if not supervisor:
        return False
    pid, started = supervisor.split(":")
    return not process_alive(int(pid), float(started))


def show_stacks_on_signal() -> None:
    """Let the supervisor ask this process (SIGUSR1) where its threads stand, even while they are stuck in C."""
    if os.environ.get("AIOS_SUPERVISOR") and hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1, all_threads=True)
