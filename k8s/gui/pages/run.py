"""One run: where its steps stand, what they learn, what they say; stop, resume, clone."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from urllib.parse import quote

from nicegui import ui
from starlette.requests import Request

from jobs.contract.errors import AiosError
from k8s.conductor import Phase
from k8s.gui import artifacts
from k8s.gui.pages.curves import Curves, Source, source_of
from k8s.gui.pages.elements import badge, badge_classes, box, button, card, link, note, segments, tag
from k8s.gui.pages.frame import attempt, frame, live, missing, scheme
from k8s.gui.pages.run_files import files, origin
from k8s.gui.pages.run_log import LogCard
from k8s.gui.pages.run_steps import steps_table
from k8s.gui.runs import BOOK, folder_of, in_cluster, place_of, values_of
from k8s.gui.settings import SETTINGS
from k8s.machine.store import RUNS
from k8s.show import duration, took
from k8s.values import enabled_steps
from k8s.view import RunView

_TRAINING = ("rm", "dpo")
_FILES_S = 2.0


async def page(request: Request, name: str) -> None:
    """Show a run."""
    try:
        view = await asyncio.to_thread(BOOK.find, name)
        values = await asyncio.to_thread(values_of, name) if view.phase != "unreadable" else {}
        for step in enabled_steps(values) if values else ():
            folder_of(values, step)  # a run may name any folder; those outside the workspace are none of ours
    except AiosError as exc:
        missing(request, exc)
        return
    shown = RunPage(view, values, scheme(request) == "dark") if values else None
    if shown:
        await shown.curves.prepare()
    with frame(request, view.name, "/runs") as titles:
        pass
    if shown is None:
        note(view.message, "bad")
        return
    shown.build(titles)


class RunPage:
    """The parts of the page that change while somebody looks."""

    def __init__(self, view: RunView, values: dict[str, Any], dark: bool) -> None:
        self.view, self.values = view, values
        self.steps = enabled_steps(values)
        training = [step for step in self.steps if step in _TRAINING]
        running = [s.name for s in view.steps if s.phase is Phase.RUNNING and s.name in training]
        done = [s.name for s in view.steps if s.attempt and s.name in training]
        self.shown_step = (running or done[-1:] or training or [""])[0]
        self.training = training
        self.curves = Curves(self._sources(), dark)
        self._drawn: Any = None
        self._looked_at = 0.0
        self._found: Any = ()  # equal to no list: the first look is always shown

    def build(self, titles: Any) -> None:
        """Add everything; `update` keeps it fresh."""
        with titles:
            self.state = badge(self.view.phase)
            tag("span", _when(self.view), "hint")
            box("grow")
            if not SETTINGS.read_only:
                self.stop = button("Stop", self._stop, "danger")
                self.resume = button("Resume", self._resume, "main")
                link("Clone", f"/start?clone={quote(self.view.name)}", "button")
            link("Compare…", f"/runs?compare={quote(self.view.name)}", "button")
        self.message = note("", "bad")
        with card("Steps"):
            self.table = box("")
        if self.training:
            top = self.curves.build()
            if len(self.training) > 1:
                with top:
                    segments({s: s for s in self.training}, self.shown_step, self._choose, "Training step")
        folders = " and ".join(f"`aios jobs download {folder_of(self.values, step)}`" for step in self.steps)
        self.elsewhere = note(
            "This run's files lie on the cluster's volume, which is not mounted here: curves and log come from its "
            f"pods, a point every few seconds, as long as those are there. {folders} fetches the files."
        )
        self.elsewhere.set_visibility(False)
        self.log = LogCard(self.view.name, list(self.steps), self.shown_step or next(iter(self.steps)))
        self.log.build()
        with box("grid"):
            with card("Files", "span6"):
                self.files = box("rows")
            with card("How it was started", "span6"):
                origin(self.view.name, self.values)
        self._draw()
        live(self.update)

    def _sources(self) -> list[Source]:
        if not self.shown_step:
            return []
        return [source_of(self.view.name, self.values, self.shown_step)]

    async def _choose(self, step: str) -> None:
        self.shown_step = step
        self.curves.use(self._sources())
        await self.curves.update()

    async def update(self) -> None:
        """Look again at everything."""
        try:
            self.view = await asyncio.to_thread(BOOK.find, self.view.name)
        except AiosError as exc:
            self.message.text = str(exc)
            return
        if self.training:
            await self.curves.update()
        await self.log.update()
        await self._look_at_files()
        state = (self.view, [duration(took(step)) for step in self.view.steps if step.phase is Phase.RUNNING])
        if state != self._drawn:
            self._drawn = state
            self._draw()

    def _draw(self) -> None:
        view = self.view
        self.state.text = view.phase
        self.state.classes(replace=badge_classes(view.phase))
        self.message.text = view.message
        self.message.set_visibility(bool(view.message))
        if not SETTINGS.read_only:
            self.stop.set_visibility(view.phase == "running")
            self.resume.set_visibility(view.phase in ("stopped", "failed", "abandoned"))
        self.table.clear()
        with self.table:
            steps_table(view)

    async def _look_at_files(self) -> None:
        """Show what is on the volume, every other second: a checkpoint may be complete after its run was stopped."""
        if time.monotonic() - self._looked_at < _FILES_S:
            return
        self._looked_at = time.monotonic()
        mounted = in_cluster(self.view.name) is None or await asyncio.to_thread((RUNS / self.view.name).is_dir)
        found = await asyncio.to_thread(artifacts.of_run, self.values) if mounted else None
        if found == self._found:
            return
        self._found = found
        self.elsewhere.set_visibility(not mounted)
        self.files.clear()
        with self.files:
            if found is None:
                tag("p", "They lie on the cluster's volume.", "empty")
            else:
                files(found)

    def _ask(self, what: str) -> None:
        place = place_of(self.view.name)
        (place.stop if what == "stop" else place.resume)(self.view.name)

    async def _stop(self) -> None:
        with ui.dialog() as dialog, ui.card():
            tag("p", f"Stop {self.view.name}? What trains saves a checkpoint first; Resume goes on from there.")
            with box("line"):
                button("Stop the run", lambda: dialog.submit(True), "danger")
                button("Let it run", lambda: dialog.submit(False))
        if await dialog:
            await attempt(self._ask, "stop")
            await self.update()

    async def _resume(self) -> None:
        await attempt(self._ask, "resume")
        await self.update()


def _when(view: RunView) -> str:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(view.created)) if view.created else ""
    return f"{view.profile} · started {when}"
