"""Start a run: a few fields, all others folded away, and what will happen in words a terminal understands."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

from nicegui import ui
from starlette.requests import Request

from jobs.config.fields import FieldSpec, field_specs
from jobs.contract.errors import AiosError
from k8s.gui import launch
from k8s.gui.cloning import clone
from k8s.gui.datasets import data_sets
from k8s.gui.launch import COMPUTED, Form
from k8s.gui.pages.elements import box, button, card, code, link, note, segments, tag
from k8s.gui.pages.fields import Field
from k8s.gui.pages.frame import attempt, frame, missing
from k8s.gui.runs import BOOK, values_of
from k8s.gui.settings import SETTINGS
from k8s.steps import STEPS
from k8s.values import command, enabled_steps, profile_names, to_yaml

_TITLES = {"rm": "Reward model", "dpo": "DPO policy", "pipeline": "Pipeline"}
_FIRST = {
    "rm": ("base_model", "batch_size", "max_steps", "precision"),
    "dpo": ("policy_model", "ref_model", "batch_size", "max_steps", "precision", "beta"),
    "evaluation": (),
    "ingest": ("input",),
}
"""What most people set; the rest is folded away."""
_HEADINGS = {"ingest": "Ingestion", "rm": "Reward model", "dpo": "DPO policy", "evaluation": "Verdict"}
_MODELS = {
    "base_model": ("base",),
    "policy_model": ("base", "dpo"),
    "ref_model": ("base", "dpo"),
    "reward_model": ("rm",),
}


async def page(request: Request, kind: str = "pipeline", clone: str = "", dataset: str = "") -> None:
    """Show the form, filled from a run where one is cloned."""
    try:
        form = await asyncio.to_thread(_form, kind, clone, dataset)
    except AiosError as exc:
        missing(request, exc)
        return
    with frame(request, f"Clone {clone}" if clone else "Start a run", "/start"):
        pass
    if SETTINGS.read_only:
        note("This panel is read-only: it shows runs and starts none.", "warn")
        return
    found = {kind: launch.models(kind) for kind in ("base", "rm", "dpo")}
    sets = [item.name for item in await asyncio.to_thread(data_sets) if not item.draft]
    StartPage(form, sets, found).build()


def _form(kind: str, original: str, dataset: str) -> Form:
    if original:
        return clone(values_of(original), BOOK.find(original).profile)
    return Form(kind=kind if kind in _TITLES else "pipeline", dataset=dataset)


class StartPage:
    """The form and what it amounts to."""

    def __init__(self, form: Form, sets: list[str], found: dict[str, list[str]]) -> None:
        self.form, self.sets, self.models = form, sets, found
        if not form.dataset and sets:
            form.dataset = sets[0]
        self.wrong: dict[tuple[str, str], str] = {}
        self.submitting = False
        self.in_cluster, self.warned = False, False
        """Where it will run, and whether the doctor's problems have been shown."""

    def build(self) -> None:
        """Add both columns."""
        with box("grid"):
            with box("span7 rows").style("gap: 16px"):
                with card("What to run") as top:
                    with top:
                        segments(_TITLES, self.form.kind, self._choose, "What to run")
                    self._general()
                self.area = box("rows").style("gap: 16px")
            with box("span5"), card("What will happen", "sticky") as _:
                self.problem = note("", "bad").props('role="alert"')
                self.preview = box("rows")
                self.findings = box("rows")
                with box("line"):
                    self.start = button("Start", self._start, "main")
        self._steps()
        self._show()

    async def _choose(self, kind: str) -> None:
        self.form.kind = kind
        self._steps()
        self._show()

    def _general(self) -> None:
        with box("fields"):
            if self.sets:
                known = [*self.sets, *({self.form.dataset} - set(self.sets))]  # a clone's may have been deleted
                ui.select(known, label="Data set", value=self.form.dataset, on_change=self._set_dataset).props(
                    "outlined dense options-dense"
                )
            else:
                ui.input("Data set", value=self.form.dataset, on_change=self._set_dataset).props("outlined dense")
            ui.input("Name of the run", placeholder="made up at the start", on_change=self._set_name).props(
                "outlined dense stack-label"
            )
            ui.select(profile_names(), label="Profile", value=self.form.profile, on_change=self._set_profile).props(
                "outlined dense options-dense"
            )
        self.evaluate = ui.switch(
            "Evaluate on held-out pairs afterwards", value=self.form.evaluate, on_change=self._set_evaluate
        )
        if not self.sets:
            with box("line"):
                tag("span", "There is no data set on this volume yet.", "hint")
                link("Ingest an Argilla export…", "/ingest")

    def _set_dataset(self, event: Any) -> None:
        self.form.dataset = event.value or ""
        self._show()

    def _set_name(self, event: Any) -> None:
        self.form.name = (event.value or "").strip()
        self._show()

    def _set_profile(self, event: Any) -> None:
        self.form.profile = event.value
        self._steps()  # another profile has other defaults
        self._show()

    def _set_evaluate(self, event: Any) -> None:
        self.form.evaluate = bool(event.value)
        self._steps()
        self._show()

    def _steps(self) -> None:
        """Add the fields of each step that will run."""
        self.evaluate.set_visibility(self.form.kind != "pipeline")
        self.area.clear()
        self.wrong.clear()
        defaults = launch.defaults(self.form)
        with self.area:
            for step in self.form.steps():
                self._step(step, defaults.get(step, {}))

    def _step(self, step: str, defaults: dict[str, Any]) -> None:
        specs = {s.name: s for s in field_specs(STEPS[step].config) if s.name not in COMPUTED}
        first = _FIRST[step]
        with card(_HEADINGS[step]):
            if first:
                with box("fields"):
                    for name in first:
                        self._field(step, specs[name], defaults)
            with ui.expansion("More settings" if first else "Settings"), box("fields"):
                for name, spec in specs.items():
                    if name not in first:
                        self._field(step, spec, defaults)

    def _field(self, step: str, spec: FieldSpec, defaults: dict[str, Any]) -> None:
        suggestions = [path for kind in _MODELS.get(spec.name, ()) for path in self.models[kind]]
        args, default = self.form.args.setdefault(step, {}), defaults.get(spec.name, spec.default)

        def change(value: Any, wrong: str) -> None:
            self.wrong.pop((step, spec.name), None)
            if wrong:
                self.wrong[step, spec.name] = wrong
            elif value is None or value == default:
                args.pop(spec.name, None)
            else:
                args[spec.name] = value
            self._show()

        Field(spec, args.get(spec.name), suggestions, change, default=default)

    def _show(self) -> None:
        """Show the commands and values, or why there are none."""
        name = self.form.name or launch.suggest_name(self.form)
        problem = "; ".join(f"{step} {key.replace('_', ' ')}: needs {text}" for (step, key), text in self.wrong.items())
        try:
            values = None if problem else launch.compose(self.form, name)
        except AiosError as exc:
            values, problem = None, str(exc)
        self.problem.text = problem
        self.problem.set_visibility(bool(problem))
        self.start.set_enabled(values is not None and not self.submitting)
        self.in_cluster, self.warned, self.start.text = bool(values and values["backend"] != "local"), False, "Start"
        self.preview.clear()
        if values is None:
            return
        with self.preview:
            for words in launch.absent(values):
                note(words, "warn")
            code("From a terminal", launch.quoted(self.form.submit_command(name)))
            for step, settings in enabled_steps(values).items():
                code(_HEADINGS.get(step, step), launch.quoted(command(step, settings)))
            with ui.expansion("Values"):
                code("values.yaml", to_yaml(values))
            if values["backend"] != "local":
                with box("line"):
                    button("Ask the cluster's doctor", self._ask_doctor, "small")

    async def _ask_doctor(self) -> bool:
        """Show what stands in the way of this run in the cluster; returns whether anything does."""
        name = self.form.name or launch.suggest_name(self.form)
        done, found = await attempt(launch.doctor, self.form, name)
        self.findings.clear()
        with self.findings:
            for finding in found if done else []:
                tone = {"problem": "bad", "warning": "warn"}.get(finding.level, "good")
                note(f"{finding.what}{f' → {finding.remedy}' if finding.remedy else ''}", tone)
        return not done or any(finding.level == "problem" for finding in found)

    async def _start(self) -> None:
        if self.submitting:
            return
        self.submitting = True
        self.start.set_enabled(False)
        if self.in_cluster and not self.warned and await self._ask_doctor():
            self.submitting, self.warned, self.start.text = False, True, "Start all the same"
            self.start.set_enabled(True)
            return
        done, name = await attempt(launch.start, self.form)
        if done:
            ui.navigate.to(f"/runs/{quote(name)}")
        else:
            self.submitting = False
            self._show()
