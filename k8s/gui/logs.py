"""The end of a log, or the lines of it that hold a word, without reading all of it into memory."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path

from k8s.gui.files import inside

_TAIL_BYTES = 256 << 10
_LINE_BYTES = 4000


@dataclass(frozen=True, kw_only=True, slots=True)
class Excerpt:
    """Some lines of a log."""

    lines: tuple[str, ...]
    size: int
    found: int | None = None
    """How many lines of the whole log hold the word, where one was searched."""


def tail(path: Path, count: int = 400) -> Excerpt:
    """Return the last lines of a log; empty where there is none yet."""
    try:
        with inside(path).open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().split(b"\n")
    except OSError:
        return Excerpt(lines=(), size=0)
    if size > _TAIL_BYTES:
        lines = lines[1:]  # cut by our reading from the middle
    if lines and not lines[-1]:
        lines.pop()
    return Excerpt(lines=tuple(_text(line) for line in lines[-count:]), size=size)


def search(path: Path, word: str, count: int = 400) -> Excerpt:
    """Return the last lines that hold the word, upper and lower case alike."""
    needle, found = word.lower(), 0
    kept: deque[str] = deque(maxlen=count)
    try:
        with inside(path).open("rb") as file:
            for raw in file:
                line = _text(raw.rstrip(b"\n"))
                if needle in line.lower():
                    found += 1
                    kept.append(line)
            return Excerpt(lines=tuple(kept), size=file.tell(), found=found)
    except OSError:
        return Excerpt(lines=(), size=0, found=0)


def _text(line: bytes) -> str:
    """A progress bar rewrites its line with carriage returns; only what stands there last is shown."""
    return line.rstrip(b"\r").rsplit(b"\r", 1)[-1][:_LINE_BYTES].decode(errors="replace")
