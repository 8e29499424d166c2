"""The logs of a run's steps, from the attempts' files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from jobs.contract.attempts import STDOUT
from k8s.machine.store import Run

_TICK_S = 0.3


@dataclass(slots=True)
class _Tail:
    """Reads what a file has grown by, whole lines only until it is complete."""

    path: Path
    offset: int = 0
    rest: bytes = field(default=b"")

    def read(self, *, complete: bool) -> Iterator[str]:
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                content = file.read()
        except OSError:
            return
        self.offset += len(content)
        *lines, self.rest = (self.rest + content).split(b"\n")
        if complete and self.rest:
            lines.append(self.rest)
            self.rest = b""
        for line in lines:
            yield line.decode(errors="replace").rstrip("\r")


def stream(run: Run, steps: list[str], *, follow: bool, ended: Callable[[], bool]) -> Iterator[tuple[str, int, str]]:
    """Yield step, attempt and line of the steps' logs; with `follow` until the run has ended."""
    tails: dict[tuple[str, int], _Tail] = {}
    while True:
        last = not follow or ended()
        for step in steps:
            for number, folder, _ in run.attempts(step):
                tail = tails.setdefault((step, number), _Tail(folder / STDOUT))
                for line in tail.read(complete=last):
                    yield step, number, line
        if last:
            return
        time.sleep(_TICK_S)
