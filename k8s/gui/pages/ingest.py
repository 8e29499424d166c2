"""A new ingestion: first into a preview beside the data in use, then, when a person has seen it, in its place."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

from nicegui import ui
from starlette.requests import Request

from jobs.config.fields import field_specs
from jobs.config.ingest import IngestConfig
from jobs.contract.errors import AiosError
from k8s.conductor import Phase
from k8s.gui import launch, previews
from k8s.gui.datasets import data_sets
from k8s.gui.launch import COMPUTED, Form
from k8s.gui.pages import data_card
from k8s.gui.pages.elements import badge, box, button, card, copy_button, link, note, tag
from k8s.gui.pages.fields import Field
from k8s.gui.pages.frame import attempt, csrf, frame, live, missing, scheme
from k8s.gui.runs import BOOK, values_of
from k8s.gui.settings import SETTINGS
from k8s.values import command

_FIRST = ("train_ratio", "eval_ratio", "test_ratio", "anonymize")


async def page(request: Request, name: str = "") -> None:
    """Show the form of an ingestion."""
    sets = [item.name for item in await asyncio.to_thread(data_sets) if not item.draft]
    with frame(request, "Ingest an Argilla export", "/data"):
        pass
    if SETTINGS.read_only:
        note("This panel is read-only: it ingests nothing.", "warn")
        return
    IngestForm(name or (sets[0] if sets else "preferences"), sets, csrf(request)).build()


class IngestForm:
    """Export, settings, the command."""

    def __init__(self, name: str, sets: list[str], token: str) -> None:
        self.target, self.sets, self.token = name, sets, token
        self.form = Form(kind="ingest", args={"ingest": {}})
        self.wrong: dict[str, str] = {}

    @property
    def args(self) -> dict[str, Any]:
        """The settings that are not at their defaults."""
        return self.form.args["ingest"]

    def build(self) -> None:
        """Add both columns."""
        with box("grid"):
            with box("span7 rows").style("gap: 16px"):
                with card("Export"):
                    self._export()
                with card("Settings"):
                    self._settings()
            with box("span5"), card("What will happen", "sticky"):
                self.problem = note("", "bad").props('role="alert"')
                self.words = tag("p", "", "muted")
                with box("rows") as self.shown:
                    with box("line"):
                        tag("h3", "Ingestion").classes("grow")
                        copy_button(lambda: self.command.text)
                    self.command = tag("pre", "", "code")
                with box("line"):
                    self.start = button("Start", self._start, "main")
        self._show()

    def _export(self) -> None:
        # The browser's own control: it takes a dropped file too, and keyboards and screen readers know it.
        picker = box("picker", "input").props('type="file" aria-label="Export file"')
        self.upload = tag("p", "", "hint").props('role="status"')
        send = f"async (e) => emit(await window.panelUpload(e.target, '{self.token}', '{self.upload.html_id}'))"
        picker.on("change", self._uploaded, js_handler=send)
        self.path = ui.textarea("or a path in the workspace, one a line", on_change=self._set_input)
        self.path.props("outlined dense autogrow rows=1")
        with box("fields"):
            ui.input("Data set", value=self.target, on_change=self._set_target).props("outlined dense")

    def _uploaded(self, event: Any) -> None:
        found = event.args if isinstance(event.args, dict) else {}
        self.upload.text = str(found.get("said", ""))
        if found.get("path"):
            self.path.set_value(str(found["path"]))

    def _settings(self) -> None:
        specs = {s.name: s for s in field_specs(IngestConfig) if s.name not in (*COMPUTED, "input", "overwrite")}
        with box("fields"):
            for name in _FIRST:
                self._field(specs[name])
        with ui.expansion("More settings"), box("fields"):
            for name, spec in specs.items():
                if name not in _FIRST:
                    self._field(spec)

    def _field(self, spec: Any) -> None:
        def change(value: Any, wrong: str) -> None:
            self.wrong.pop(spec.name, None)
            if wrong:
                self.wrong[spec.name] = wrong
            elif value is None or value == spec.default:
                self.args.pop(spec.name, None)
            else:
                self.args[spec.name] = value
            self._show()

        Field(spec, None, [], change)

    def _set_input(self, event: Any) -> None:
        paths = [line.strip() for line in (event.value or "").splitlines() if line.strip()]
        self.args.pop("input", None)
        if paths:
            self.args["input"] = paths
        self._show()

    def _set_target(self, event: Any) -> None:
        self.target = (event.value or "").strip()
        self._show()

    @property
    def replaces(self) -> bool:
        """Whether data are there already, so that a preview comes first."""
        return self.target in self.sets

    def _show(self) -> None:
        self.words.text = (
            "Choose an export first."
            if not self.args.get("input")
            else (
                f"The export is ingested into a preview. {self.target} stays as it is until you have seen the result "
                "and accept it."
                if self.replaces
                else f"The export becomes the data set {self.target}."
            )
        )
        problem = "; ".join(f"{key.replace('_', ' ')}: needs {text}" for key, text in self.wrong.items())
        text = ""
        try:
            if self.args.get("input"):
                values = launch.compose(previews.named(self.form, self.target, preview=self.replaces), "ingest")
                text = launch.quoted(command("ingest", values["steps"]["ingest"]))
        except AiosError as exc:
            problem = problem or str(exc)
        self.problem.text = problem
        self.problem.set_visibility(bool(problem))
        self.start.set_enabled(bool(text) and not problem)
        self.command.text = text
        self.shown.set_visibility(bool(text))

    async def _start(self) -> None:
        self.start.set_enabled(False)
        form = previews.named(self.form, self.target, preview=self.replaces)
        done, name = await attempt(launch.start, form)
        if done:
            ui.navigate.to(f"/ingest/{quote(name)}")
        else:
            self.start.set_enabled(True)


async def result(request: Request, name: str) -> None:
    """Show an ingestion while it runs, and its result with the question what to do with it."""
    try:
        values = await asyncio.to_thread(values_of, name)
        await asyncio.to_thread(BOOK.find, name)
    except AiosError as exc:
        missing(request, exc)
        return
    with frame(request, "Ingestion", "/data") as titles, titles:
        link(name, f"/runs/{quote(name)}")
    Result(name, values, scheme(request) == "dark").build()


class Result:
    """What an ingestion has become."""

    def __init__(self, name: str, values: dict[str, Any], dark: bool) -> None:
        self.name, self.values, self.dark = name, values, dark
        self.dataset = str(values["run"]["dataset"])
        self._phase: Any = None

    def build(self) -> None:
        """Add the area that `update` fills."""
        self.area = box("rows").style("gap: 16px")
        live(self.update)

    async def update(self) -> None:
        """Show the state, and once it has ended the report."""
        view = await asyncio.to_thread(BOOK.find, self.name)
        if view.phase == self._phase:
            return
        found = {s.name: s for s in await asyncio.to_thread(data_sets)} if view.ended else {}
        step = next((s for s in view.steps if s.name == "ingest"), None)
        self.area.clear()
        with self.area:
            with box("line"):
                badge(view.phase)
                tag("span", "This page may be closed; the ingestion goes on." if not view.ended else "", "hint")
            done = step is not None and step.phase is Phase.SUCCEEDED
            if view.ended and not done:
                note(step.message if step and step.message else view.message, "bad")
                link("See its log", f"/runs/{quote(self.name)}")
            elif self.dataset in found:
                self._offer()
                data_card.full(found[self.dataset], self.dark)
            elif view.ended:
                note("This preview has been accepted or discarded.")
        self._phase = view.phase  # only now: what went wrong on the way is tried again

    def _offer(self) -> None:
        target = previews.target_of(self.dataset)
        if not target:
            with box("line"):
                link("Train on it", f"/start?kind=pipeline&dataset={quote(self.dataset)}", "button main")
            return
        if SETTINGS.read_only:
            return
        with card(f"Replace {target} by this?"):
            tag("p", f"{target} is unchanged so far. The same export with the same settings gives the same splits.")
            with box("line"):
                button(f"Replace {target}", self._accept, "main")
                button("Discard the preview", self._discard, "danger")

    async def _accept(self) -> None:
        done, name = await attempt(previews.accept, self.values)
        if done:
            ui.navigate.to(f"/ingest/{quote(name)}")

    async def _discard(self) -> None:
        done, _ = await attempt(previews.discard, self.dataset)
        if done:
            ui.navigate.to("/data")
