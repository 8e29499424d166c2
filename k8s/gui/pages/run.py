"""One run: where its steps stand, what they learn, what they say; stop, resume, clone."""

from __future__ import annotations

import asyncio
import functools
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nicegui import ui
from starlette.requests import Request

from jobs.contract.attempts import STDOUT
from jobs.contract.errors import AiosError, ExitCode
from k8s.conductor import Phase
from k8s.gui import artifacts, logs
from k8s.gui.cluster import ClusterRuns
from k8s.gui.launch import quoted
from k8s.gui.pages.curves import Curves, Source, source_of
from k8s.gui.pages.frame import (
    TONES,
    attempt,
    badge,
    box,
    button,
    card,
    copy_button,
    file_link,
    frame,
    link,
    live,
    missing,
    note,
    scheme,
    scrolling,
    segments,
    tag,
)
from k8s.gui.runs import BOOK, folder_of, in_cluster, place_of, run_of, values_of
from k8s.gui.settings import SETTINGS
from k8s.machine.store import RUNS, Run
from k8s.show import duration, progress_text, remaining_text, took
from k8s.values import command, enabled_steps, to_yaml
from k8s.view import RunView, StepView

_TRAINING = ("rm", "dpo")
_LINES = 400
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
    with frame(request, view.name, "/runs") as titles:
        pass
    if not values:
        note(view.message, "bad")
        return
    RunPage(view, values, titles, scheme(request) == "dark").build()


class RunPage:
    """The parts of the page that change while somebody looks."""

    def __init__(self, view: RunView, values: dict[str, Any], titles: Any, dark: bool) -> None:
        self.view, self.values, self.titles, self.dark = view, values, titles, dark
        self.steps = enabled_steps(values)
        training = [step for step in self.steps if step in _TRAINING]
        running = [s.name for s in view.steps if s.phase is Phase.RUNNING and s.name in training]
        done = [s.name for s in view.steps if s.attempt and s.name in training]
        self.shown_step = (running or done[-1:] or training or [""])[0]
        self.training = training
        self._drawn: Any = None
        self._looked_at = 0.0
        self._found: Any = ()  # equal to no list: the first look is always shown

    def build(self) -> None:
        """Add everything; `update` keeps it fresh."""
        with self.titles:
            self.state = badge(self.view.phase)
            tag("span", _when(self.view), "hint")
            box("grow")
            if not SETTINGS.read_only:
                self.stop = button("Stop", self._stop, "danger")
                self.resume = button("Resume", self._resume, "main")
                link("Clone", f"/start?clone={quote(self.view.name)}", "button")
        self.message = note("", "bad")
        with card("Steps"):
            self.table = box("")
        self.curves = Curves(self._sources(), self.dark)
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
        self.log = LogCard(self.view.name, list(self.steps), self.shown_step or next(iter(self.steps)))
        self.log.build()
        with box("grid"):
            with card("Files", "span6"):
                self.files = box("rows")
            with card("How it was started", "span6"):
                self._origin()
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
            await self._draw()

    async def _draw(self) -> None:
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
            _steps(view)

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
                _files(found)

    def _origin(self) -> None:
        text = to_yaml(self.values)
        for name, step in self.steps.items():
            words = quoted(command(name, step))
            with box("rows"):
                with box("line"):
                    tag("h3", name).classes("grow")
                    copy_button(functools.partial(str, words))
                tag("pre", words, "code")
        with ui.expansion("Values").classes("w"):
            with box("line"):
                copy_button(lambda: text)
                file_link("Download run.json", f"artifacts/runs/{self.view.name}/run.json", "button small")
            tag("pre", text, "code")

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


def badge_classes(state: str) -> str:
    """Return the classes of a state's badge."""
    return f"badge {TONES.get(state, '')}"


def _when(view: RunView) -> str:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(view.created)) if view.created else ""
    return f"{view.profile} · started {when}"


def _steps(view: RunView) -> None:
    with scrolling("Steps"), box("plain", "table"):
        with box("", "thead"), box("", "tr"):
            for heading in ("Step", "State", "Progress", "Duration", "Attempt", "Node"):
                tag("th", heading).props('scope="col"')
        with box("", "tbody"):
            for step in view.steps:
                _step(step)


def _step(step: StepView) -> None:
    with box("", "tr"):
        tag("td", step.name).style("font-weight: 550")
        with box("", "td"):
            badge(step.state)
        with box("", "td").style("min-width: 220px"):
            _progress(step)
        tag("td", duration(took(step)), "nowrap number")
        tag("td", str(step.attempt or ""), "number")
        tag("td", step.node, "muted breakable")


def _progress(step: StepView) -> None:
    shown = step.progress
    done, total = shown.get("step"), shown.get("max_steps")
    if step.phase is Phase.RUNNING and isinstance(done, int) and isinstance(total, int) and total > 0:
        bar = box("progress").props('role="progressbar" aria-valuemin="0"')
        bar.props["aria-valuenow"], bar.props["aria-valuemax"] = done, total
        bar.props["aria-label"] = f"{step.name}: steps"
        with bar:
            box("").style(f"width: {100 * min(1.0, done / total):.1f}%")
    left = remaining_text(step)
    text = progress_text(step) + (f"  {left} left" if left else "")
    tag("div", text, "muted number")
    if step.message and step.phase is not Phase.SUCCEEDED:
        interrupted = step.exit_code == ExitCode.INTERRUPTED  # somebody asked for it: no fault
        code = f" (exit code {step.exit_code})" if step.exit_code and not interrupted else ""
        tag("div", f"{step.message}{code}", f"breakable {'muted' if interrupted else 'wrong'}")


def _files(found: list[artifacts.StepFiles]) -> None:
    if not any(step.there for step in found):
        tag("p", "Nothing is written yet.", "empty")
    for step in found:
        if not step.there:
            continue
        with box("rows"):
            with box("line"):
                tag("h3", step.step)
                badge("succeeded" if step.published else "waiting", "published" if step.published else "not published")
                if step.step == "evaluation" and step.published:
                    link("Read the verdict", f"/verdicts/{quote(step.folder.name)}", "button small")
            with box("line"):
                link(str(step.folder), f"/files-of/{step.folder}", "mono breakable")
                for name in step.downloads:
                    file_link(name, (step.folder / name).as_posix())
            if step.checkpoint:
                tag("p", step.checkpoint, "hint")
            words, url = step.tracking
            if url:
                ui.link(words, url, new_tab=True).props('rel="noopener noreferrer"')
            elif words:
                tag("p", words, "hint")


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
                search = ui.input(placeholder="Search the log", on_change=self._search)
                search.props('dense outlined clearable debounce=300 aria-label="Search the log" type=search')
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
