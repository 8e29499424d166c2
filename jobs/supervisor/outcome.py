"""From the way a process ended to an exit code of ours and one line that says why."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from jobs.contract.errors import AiosError, ExitCode
from jobs.contract.files import sha256_file
from jobs.contract.manifest import MANIFEST_NAME, read_manifest, verify
from jobs.supervisor.memory import Shortage

KNOWN = frozenset(int(code) for code in ExitCode)
MESSAGE_BYTES = 4096
"""What Kubernetes keeps of a last message; the rest it cuts off, amid the JSON."""
_CUTS = ((1500, 1800), (1200, 900), (600, 300), (300, 0))
"""Characters of message and log to try, until it fits: a character takes one byte to six."""
KILLED = 137
"""As the kernel's own kill looks to Kubernetes: counted and tried again, here with more memory."""
_DEVICE = re.compile(
    r"\bXid\b|uncorrectable|ECC error|fallen off the bus|GPU is lost|CUDA error: (unknown error|hardware)",
    re.IGNORECASE,
)
_DEVICE_MEMORY = re.compile(r"(CUDA|GPU|HIP)\b.{0,30}out of memory", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How an attempt ended. `state`: succeeded, skipped, interrupted or failed."""

    state: str
    exit_code: int
    message: str = ""
    manifest_sha256: str | None = None
    cause: str = ""
    """memory, node_memory, device, device_memory, hung; empty: the code says it all."""

    def termination_message(self, **more: Any) -> bytes:
        """Serialise for Kubernetes: whole JSON of at most 4096 bytes, the end of the log as far as it fits.

        Args:
            more: small values, and `log`.
        """
        document = more | {
            "state": self.state,
            "exit_code": self.exit_code,
            "message": self.message,
            "manifest_sha256": self.manifest_sha256,
        }
        if self.cause:
            document["cause"] = self.cause
        for message_chars, log_chars in _CUTS:
            short = {"message": _plain(self.message)[:message_chars]}
            if "log" in document:
                short["log"] = _plain(str(document["log"]))[-log_chars:] if log_chars else ""
            content = orjson.dumps(document | short)
            if len(content) <= MESSAGE_BYTES:
                return content
        return orjson.dumps({"state": self.state, "exit_code": self.exit_code, "manifest_sha256": self.manifest_sha256})


def _plain(text: str) -> str:
    """Replace what no JSON may hold: halves of characters, from file names that are no UTF-8."""
    return text.encode("utf-8", "replace").decode()


def judge(
    returncode: int,
    *,
    results: list[Mapping[str, Any]],
    attempt_id: str,
    output: Path | None,
    stopping: bool,
    shortage: Shortage | None = None,
    hung: str = "",
    grow: bool = False,
) -> Outcome:
    """Judge an ended step.

    Args:
        returncode: of the process; negative: the signal that ended it.
        results: what the ranks reported, rank 0 first.
        attempt_id: the manifest must carry it, unless the step says that it skipped.
        output: folder that the step publishes; None: no folder, and the step's own word counts.
        stopping: a stop was asked for.
        shortage: the kernel killed a process for want of memory.
        hung: why it was taken for hung and ended, else empty.
        grow: the step may be tried again with more memory, so running out of it is no final failure.
    """
    if hung:
        return Outcome(state="failed", exit_code=int(ExitCode.INTERNAL), message=hung, cause="hung")
    if returncode < 0:
        return _signalled(-returncode, stopping, shortage, grow)
    first = results[0] if results else {}
    code = _exit_code(returncode, results)
    message = str(_spokesman(results, code).get("message") or "")
    if code == ExitCode.DONE:
        return _published(first, attempt_id, output, stopping)
    if code == ExitCode.INTERRUPTED:
        return Outcome(state="interrupted", exit_code=code, message=message or "stopped; a checkpoint is saved")
    if shortage and code == ExitCode.INTERNAL:
        return _short(shortage, grow)
    sha = _manifest_of(output, attempt_id) if code == ExitCode.GATE else None
    message = message or f"the step ended with code {returncode}; see its log"
    return Outcome(state="failed", exit_code=code, message=message, manifest_sha256=sha, cause=_cause(code, message))


def _cause(code: int, message: str) -> str:
    if code == ExitCode.DIVERGED and _DEVICE_MEMORY.search(message):
        return "device_memory"
    return "device" if code == ExitCode.INTERNAL and _DEVICE.search(message) else ""


def _short(shortage: Shortage, grow: bool) -> Outcome:
    """Running out of its own limit ends a step for good, unless it may have more; a node's want of memory passes."""
    code = int(ExitCode.INTERNAL)
    if shortage.cause == "memory":
        code = KILLED if grow else int(ExitCode.DIVERGED)
    return Outcome(state="failed", exit_code=code, message=shortage.message, cause=shortage.cause)


def _exit_code(returncode: int, results: list[Mapping[str, Any]]) -> int:
    """torchrun turns whatever its ranks exit with into 1: what they wrote down tells more."""
    if returncode in KNOWN:
        return returncode
    reported = [int(result["exit_code"]) for result in results if result.get("exit_code") in KNOWN - {0}]
    # Ranks that outlive the first failure are told to stop and report 75: the failure is the cause.
    causes = [code for code in reported if code != ExitCode.INTERRUPTED] or reported
    return causes[0] if causes else int(ExitCode.INTERNAL)


def _spokesman(results: list[Mapping[str, Any]], code: int) -> Mapping[str, Any]:
    return next((result for result in results if result.get("exit_code", 0) == code), {})


def _signalled(number: int, stopping: bool, shortage: Shortage | None, grow: bool) -> Outcome:
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    if shortage:
        return _short(shortage, grow)
    if stopping:
        message = f"stopped by {name} before it could end by itself; the last saved checkpoint counts"
        return Outcome(state="interrupted", exit_code=int(ExitCode.INTERRUPTED), message=message)
    hint = {
        "SIGKILL": "; somebody killed it, or memory ran out: try a smaller batch size or length",
        "SIGBUS": "; shared memory or the disk is full: look at /dev/shm",
    }.get(name, "")
    return Outcome(state="failed", exit_code=int(ExitCode.INTERNAL), message=f"the step was ended by {name}{hint}")


def _published(result: Mapping[str, Any], attempt_id: str, output: Path | None, stopping: bool) -> Outcome:
    """Exit 0 alone is no success: a trap that swallows SIGTERM and returns also exits with 0."""
    found = _proof(result, attempt_id, output)
    if stopping and found.exit_code != 0:
        message = (
            f"asked to stop, it exited with 0 and published nothing; the last saved checkpoint counts ({found.message})"
        )
        return Outcome(state="interrupted", exit_code=int(ExitCode.INTERRUPTED), message=message)
    return found


def _proof(result: Mapping[str, Any], attempt_id: str, output: Path | None) -> Outcome:
    if output is None:
        return Outcome(
            state="skipped" if result.get("skipped") else "succeeded",
            exit_code=0,
            message=str(result.get("message") or ""),
            manifest_sha256=result.get("manifest_sha256"),
        )
    try:
        manifest = verify(output, content=False)
    except AiosError as exc:
        message = f"the step exited with 0 but published nothing valid: {exc}"
        return Outcome(state="failed", exit_code=int(ExitCode.INTERNAL), message=message)
    skipped = bool(result.get("skipped"))
    if manifest.attempt != attempt_id and not skipped:
        message = f"the step exited with 0 but {output} was published by another attempt ({manifest.attempt})"
        return Outcome(state="failed", exit_code=int(ExitCode.INTERNAL), message=message)
    return Outcome(
        state="skipped" if skipped else "succeeded",
        exit_code=0,
        message=str(result.get("message") or ""),
        manifest_sha256=sha256_file(output / MANIFEST_NAME),
    )


def _manifest_of(output: Path | None, attempt_id: str) -> str | None:
    if output is None:
        return None
    try:
        manifest = read_manifest(output)
    except AiosError:
        return None
    return sha256_file(output / MANIFEST_NAME) if manifest and manifest.attempt == attempt_id else None


def read_results(path: Path) -> list[dict[str, Any]]:
    """Return what the ranks reported, rank 0 first, then in the order of writing: the first failure is the cause."""
    ranks = sorted(path.parent.glob(f"{path.name}.rank-*"), key=lambda file: file.stat().st_mtime_ns)
    results = []
    for file in [path, *ranks]:
        try:
            results.append(orjson.loads(file.read_bytes()))
        except (FileNotFoundError, orjson.JSONDecodeError):
            continue
    return results
