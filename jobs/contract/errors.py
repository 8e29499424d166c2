"""The errors that a user sees, and the exit code that each one means.

    AiosError                    70  internal or device fault, retry
    ├── GateFailed                3  published, but a gate (--fail-under) failed
    ├── BadConfig                64  the settings contradict each other or the data
    ├── BadData                  65  the input file or rows cannot be used
    ├── UpstreamMissing          66  an artifact of an earlier step is absent, broken or foreign
    │   └── BeingReplaced        66  its folder is being replaced right now, try again
    ├── ServiceDown              69  a remote service does not answer, retry
    ├── Diverged                 71  the loss is no number any more
    ├── OutOfMemory              71  device memory is exhausted
    ├── VolumeFault              74  disk full or volume not writable, retry
    │   └── FolderBusy           74  another live process writes this folder
    ├── Interrupted              75  asked to stop, checkpoint saved
    ├── NotAuthorised            77  credentials are missing or refused
    └── EnvironmentUnfit         78  this machine or installation cannot run this

Usage errors (unknown flags, missing options) are click's and exit 2.
"""

from __future__ import annotations

import errno
from enum import IntEnum


class ExitCode(IntEnum):
    """What a step's process status means to the supervisor, the conductor and Kubernetes."""

    DONE = 0
    USAGE = 2
    GATE = 3
    CONFIG = 64
    DATA = 65
    UPSTREAM = 66
    UNAVAILABLE = 69
    INTERNAL = 70
    DIVERGED = 71
    VOLUME = 74
    INTERRUPTED = 75
    AUTH = 77
    ENVIRONMENT = 78


NEVER_RETRIED = frozenset(
    {
        ExitCode.USAGE,
        ExitCode.GATE,
        ExitCode.CONFIG,
        ExitCode.DATA,
        ExitCode.UPSTREAM,
        ExitCode.DIVERGED,
        ExitCode.AUTH,
        ExitCode.ENVIRONMENT,
    }
)
"""A second attempt with the same input would end the same way."""


class AiosError(Exception):
    """A failure told in one line: what was found; what was needed; what to do next."""

    exit_code = ExitCode.INTERNAL

    def __init__(self, found: str, *, needed: str = "", next_step: str = "") -> None:
        self.found = found
        self.needed = needed
        self.next_step = next_step
        needed = f"needed: {needed}" if needed else ""
        super().__init__("; ".join(" ".join(part.split()) for part in (found, needed, next_step) if part))


class GateFailed(AiosError):
    """The result is published, but it is worse than the gate that the user set."""

    exit_code = ExitCode.GATE


class BadConfig(AiosError):
    """Settings that contradict each other, the data or the model."""

    exit_code = ExitCode.CONFIG


class BadData(AiosError):
    """An input that cannot be read or does not say what is needed."""

    exit_code = ExitCode.DATA


class UpstreamMissing(AiosError):
    """A folder or model of an earlier step that is absent, incomplete or not what its manifest says."""

    exit_code = ExitCode.UPSTREAM


class BeingReplaced(UpstreamMissing):
    """A folder that another process is exchanging for a new one at this instant."""


class ServiceDown(AiosError):
    """A remote service (model hub, Argilla, judge) that does not answer."""

    exit_code = ExitCode.UNAVAILABLE


class Diverged(AiosError):
    """Training that produced a loss which is no number."""

    exit_code = ExitCode.DIVERGED


class OutOfMemory(AiosError):
    """Memory of the device exhausted."""

    exit_code = ExitCode.DIVERGED


class VolumeFault(AiosError):
    """A disk that is full or a folder that cannot be written."""

    exit_code = ExitCode.VOLUME


class FolderBusy(VolumeFault):
    """A folder that another live process is writing."""


class Interrupted(AiosError):
    """A stop was asked for and the work so far is saved."""

    exit_code = ExitCode.INTERRUPTED


class NotAuthorised(AiosError):
    """Credentials that are missing or were refused."""

    exit_code = ExitCode.AUTH


class EnvironmentUnfit(AiosError):
    """A machine or installation that lacks what the command needs."""

    exit_code = ExitCode.ENVIRONMENT


_DISK_ERRNOS = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR,
}  # fmt: skip


def from_os_error(exc: OSError) -> AiosError:
    """Turn an operating-system error that nobody handled into the sentence and exit code it deserves."""
    where = f" ({exc.filename})" if exc.filename else ""
    reason = exc.strerror or str(exc)
    if exc.errno in {errno.ENOSPC, errno.EDQUOT}:
        return VolumeFault(
            f"the disk is full{where}",
            next_step="free space (`aios artifacts prune`) and start the command again",
        )
    if exc.errno in _DISK_ERRNOS:
        return VolumeFault(
            f"{reason}{where}",
            needed="a readable and writable place",
            next_step="check permissions and mounts",
        )
    if exc.errno in {errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG}:
        return VolumeFault(f"{reason}{where}", needed="a folder that can be written", next_step="choose another path")
    if isinstance(exc, FileNotFoundError):
        return BadData(f"no such file{where}", next_step="check the path")
    return AiosError(f"{reason}{where}", next_step="see the log for the traceback")
