"""What a step prints: copied from its file to our own output, whatever is done to that file meanwhile."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from pathlib import Path

from jobs.contract.files import write_atomic
from jobs.contract.redact import redact_bytes, secret_values

_TICK_S = 0.1
_REMEMBERED = 64
_LONGEST_LINE = 1 << 16


class StepLog:
    """Follows the file that a step writes.

    It is held open: whoever rotates it by renaming takes nothing away from us, the step goes on writing into the same
    one. One that was cut off (copytruncate) is read from its new start: the step appends.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb")
        self._lock = threading.Lock()
        self._done = threading.Event()
        # A thread, since a reader of our output that stalls may block it.
        self._thread = threading.Thread(target=self._echo, daemon=True)

    def start(self) -> None:
        """Begin to copy."""
        self._thread.start()

    def finish(self) -> None:
        """Copy the rest, then take secrets out of the file: the step hides them, native code beneath it may not."""
        self._done.set()
        self._thread.join(timeout=5)
        with contextlib.suppress(OSError):
            scrub(self.path)

    def tail(self, limit: int = 1800) -> str:
        """Return the end of the log, whole lines."""
        with contextlib.suppress(OSError):
            size = os.fstat(self._file.fileno()).st_size
            text = self._read(max(0, size - limit), limit).decode(errors="replace")
            return text if size <= limit else text.partition("\n")[2]
        return ""

    def _read(self, position: int, size: int = 1 << 16) -> bytes:
        """Read from a place of the file that two threads share; os.pread is not there on Windows."""
        with self._lock:
            self._file.seek(position)
            return self._file.read(size)

    def _echo(self) -> None:
        position, before, rest, secret = 0, b"", b"", bool(secret_values())
        with contextlib.suppress(OSError, ValueError):
            while True:
                last = self._done.is_set()
                # Cut off: shorter than it was, or grown again already and no longer what we read.
                if self._read(position - len(before), len(before)) != before:
                    position, before = 0, b""
                while chunk := self._read(position):
                    position += len(chunk)
                    before = (before + chunk)[-_REMEMBERED:]
                    # Our output hides secrets: whole lines, so that none is cut in two and missed.
                    whole, rest = _whole_lines(rest + chunk) if secret else (chunk, b"")
                    sys.stdout.buffer.write(whole)
                    sys.stdout.buffer.flush()
                if last:
                    sys.stdout.buffer.write(rest)
                    sys.stdout.buffer.flush()
                    return
                time.sleep(_TICK_S)


def _whole_lines(content: bytes) -> tuple[bytes, bytes]:
    """Return the whole lines, and the rest; a line that never ends is let go at 64 KB."""
    end = content.rfind(b"\n") + 1
    return (content, b"") if len(content) - end > _LONGEST_LINE else (content[:end], content[end:])


def scrub(log: Path) -> None:
    """Take secrets out of a finished log."""
    values = secret_values()
    if not values:
        return
    content = log.read_bytes()
    hidden = redact_bytes(content, values)
    if hidden != content:
        write_atomic(log, hidden)
