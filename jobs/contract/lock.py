"""One writer per folder: a lock that names its owner and that a dead owner cannot keep.

`<folder>.lock` beside the folder holds the owner as JSON. A process of the same machine is known to be dead by its
pid and start time; one elsewhere (another pod on the same volume) by a heartbeat older than `STALE_AFTER_S`. Taking
over gives the folder a new token, and whoever held the old one can no longer publish: `FolderLock.check`.
"""

from __future__ import annotations

import contextlib
import os
import platform
import threading
import time
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson
import psutil
from filelock import FileLock

from jobs.contract.errors import FolderBusy
from jobs.contract.files import make_folder, write_atomic
from jobs.contract.places import check_folder

HEARTBEAT_S = 10.0
STALE_AFTER_S = 90.0
"""Several missed heartbeats: a slow NFS server or a paused machine must not look dead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """Who writes a folder."""

    token: str
    host: str
    machine: str
    pid: int
    started: float
    attempt: str
    heartbeat: float = field(default_factory=time.time)

    def alive(self) -> bool:
        """Tell whether this owner still runs: by its process here, by its heartbeat elsewhere."""
        if self.machine == _machine():
            return process_alive(self.pid, self.started)
        return time.time() - self.heartbeat < STALE_AFTER_S


def process_alive(pid: int, started: float) -> bool:
    """Tell whether the process with this pid is the one that started at `started` (seconds since the epoch)."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        return bool(process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - started) < 1.0)
    return False


def process_started(pid: int | None = None) -> float:
    """Return the start time of a process (default: this one) in seconds since the epoch."""
    return float(psutil.Process(pid).create_time())


def _machine() -> str:
    """Identify the set of processes whose pids this process can judge: host, boot and pid namespace."""
    namespace = ""
    with contextlib.suppress(OSError):
        namespace = str(Path("/proc/self/ns/pid").readlink())
    return f"{platform.node()}:{int(psutil.boot_time())}:{namespace}"


class FolderLock:
    """Exclusive right to write one folder, held from `with` to its end.

    Raises:
        FolderBusy: another live process holds it.
        BadConfig: the folder, or a link in it, leads out of the workspace.
    """

    def __init__(self, folder: Path, *, attempt: str) -> None:
        self.folder = folder
        self.path = folder.with_name(f".{folder.name}.lock")
        self._guard = FileLock(folder.with_name(f".{folder.name}.lock.guard"), timeout=30)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.owner = Owner(
            token=uuid.uuid4().hex,
            host=platform.node(),
            machine=_machine(),
            pid=os.getpid(),
            started=process_started(),
            attempt=attempt,
        )

    def __enter__(self) -> Self:
        check_folder(self.folder)
        make_folder(self.path.parent)
        with self._guard:
            holder = read_owner(self.path)
            if holder is not None and holder.alive():
                raise FolderBusy(
                    f"{self.folder} is being written by process {holder.pid} on {holder.host}"
                    f" (attempt {holder.attempt})",
                    next_step="wait for it, stop it, or choose another output folder",
                )
            self._write()
        self._thread = threading.Thread(target=self._beat, name=f"lock:{self.folder.name}", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with contextlib.suppress(OSError), self._guard:
            if self._held():
                self.path.unlink(missing_ok=True)

    def check(self) -> None:
        """Fail when another attempt has taken this folder over; called right before anything is published."""
        if not self._held():
            raise FolderBusy(
                f"{self.folder} was taken over by another attempt while this one was silent",
                next_step="nothing was published; leave the folder to the newer attempt",
            )

    def _held(self) -> bool:
        holder = read_owner(self.path)
        return holder is not None and holder.token == self.owner.token

    def _write(self) -> None:
        document = asdict(self.owner) | {"heartbeat": time.time()}
        write_atomic(self.path, orjson.dumps(document))

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            # A full disk or a lost mount must not kill the training; the takeover rules cover the silence.
            with contextlib.suppress(OSError), self._guard:
                if not self._held():
                    return
                self._write()


def read_owner(path: Path) -> Owner | None:
    """Return the owner written in a lock file; None where there is none or it is torn."""
    try:
        return Owner(**orjson.loads(path.read_bytes()))
    except (FileNotFoundError, orjson.JSONDecodeError, TypeError):
        return None
