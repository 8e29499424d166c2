"""The log of a run's steps: its end as it grows, search, download."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nicegui import ui

from jobs.contract.attempts import STDOUT
from jobs.contract.errors import AiosError
from k8s.gui import logs
from k8s.gui.cluster import ClusterRuns
from k8s.gui.pages.elements import card, file_link, search_box, segments, tag
from k8s.gui.runs import in_cluster, run_of
from k8s.machine.store import RUNS, Run

_LINES = 400


class LogCard:
    """The end of a step's log, growing; or the lines of all of it that hold a word."""

    def __init__(self, name: str, steps: list[str], step: str) -> None:
        self.name, self.steps, self.step = name, steps, step
        self.number = 0
        self.word = ""
        self._shown: Any = None

    def build(self) -> None:
        """Add the card."""
        with card("Log") as top:
            with top:
                segments({s: s for s in self.steps}, self.step, self._choose, "Step of the log")
                self.attempts = ui.select([], on_change=self._pick).props(
                    'dense outlined options-dense aria-label="Attempt"'
                )
                search_box("Search the log", "Search the log", self._search)
                self.download = file_link("Download", "", "button small")
            self.where = tag("p", "", "hint").props('role="status"')
            self.text = tag("div", "", "log mono").props('tabindex="0" role="log" aria-label="Log" aria-live="off"')

    async def _choose(self, step: str) -> None:
        self.step, self.number, self._shown = step, 0, None
        await self.update()

    async def _pick(self, event: Any) -> None:
        self.number = event.value or 0
        await self.update()

    async def _search(self, event: Any) -> None:
        self.word = event.value or ""
        await self.update()

    def _read(self) -> tuple[list[int], Path | None, logs.Excerpt]:
        if (place := in_cluster(self.name)) and not Path(RUNS / self.name / "steps" / self.step).is_dir():
            return [], None, self._of_pods(place)
        attempts = Run(RUNS / self.name).attempts(self.step) if place else run_of(self.name).attempts(self.step)
        numbers = [number for number, _, _ in attempts]
        picked = [folder for number, folder, _ in attempts if number == self.number] or [f for _, f, _ in attempts[-1:]]
        if not picked:
            return [], None, logs.Excerpt(lines=(), size=0)
        path = picked[0] / STDOUT
        return numbers, path, logs.search(path, self.word) if self.word else logs.tail(path)

    def _of_pods(self, place: ClusterRuns) -> logs.Excerpt:
        """Where the volume is not mounted here the pods are asked."""
        lines = tuple(line for line in place.log(self.name, self.step) if self.word.lower() in line.lower())
        return logs.Excerpt(lines=lines[-_LINES:], size=0, found=len(lines) if self.word else None)

    async def update(self) -> None:
        """Show what is new."""
        try:
            numbers, path, excerpt = await asyncio.to_thread(self._read)
        except (AiosError, OSError) as exc:
            self.where.text = str(exc)
            return
        state = (numbers, path, excerpt, self.word)
        if state == self._shown:
            return
        self._shown = state
        options = {0: "newest attempt"} | {n: f"attempt {n}" for n in numbers[:-1]}
        self.attempts.set_visibility(len(numbers) > 1)
        if self.attempts.options != options:
            self.attempts.set_options(options, value=self.number)
        self.download.set_visibility(path is not None)
        if path is not None:
            self.download.props["href"] = f"/files/{quote(path.as_posix())}"
        self.text.text = "\n".join(excerpt.lines)
        self.where.text = self._words(excerpt)
        ui.run_javascript(f"window.panelFollow({self.text.html_id!r})")

    def _words(self, excerpt: logs.Excerpt) -> str:
        if excerpt.found is not None:
            return f"{excerpt.found:,} lines hold {self.word!r}" + (
                f", the last {len(excerpt.lines)} are shown" if excerpt.found > len(excerpt.lines) else ""
            )
        return f"{len(excerpt.lines)} last lines" if excerpt.lines else "Nothing is logged yet."
