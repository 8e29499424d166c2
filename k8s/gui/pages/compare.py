"""Runs side by side: their curves on top of each other, their verdicts, the settings in which they differ."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

from starlette.requests import Request

from jobs.contract.errors import AiosError
from k8s.gui.pages.curves import Curves, Source, source_of
from k8s.gui.pages.elements import card, link, note, segments, table, tag
from k8s.gui.pages.frame import frame, live, missing, scheme
from k8s.gui.runs import folder_of, values_of
from k8s.gui.verdicts import verdict
from k8s.values import enabled_steps

_MOST = 8
_HEADLINE = {
    "gain": "Gain, points",
    "gain_low": "Gain, lower end",
    "gain_high": "Gain, upper end",
    "win_rate": "Preference win-rate",
    "auc": "AUC",
    "accuracy": "Pairwise accuracy",
    "generation_win_rate": "Generation win-rate",
    "length_controlled_win_rate": "the same at equal lengths",
    "kl_per_answer": "Divergence, nats per answer",
}
_OWN = ("output_dir", "output", "dataset_dir", "reward_model", "policy_model", "ref_model")


async def page(request: Request, runs: str = "") -> None:
    """Show up to eight runs."""
    names = [name for name in dict.fromkeys(runs.split(",")) if name][:_MOST]
    try:
        values = {name: await asyncio.to_thread(values_of, name) for name in names}
    except AiosError as exc:
        missing(request, exc)
        return
    with frame(request, "Compare runs", "/runs") as titles, titles:
        for name in names:
            link(name, f"/runs/{quote(name)}", "chip")
    if len(names) < 2:
        note("Select two runs or more in the list of runs.")
        link("To the runs", "/runs")
        return
    overlay = Overlay(values, scheme(request) == "dark")
    await overlay.curves.prepare()
    overlay.build()
    with card("Verdicts"):
        _verdicts(values)
    with card("Settings that differ"):
        _differences(values)


class Overlay:
    """Curves of the same training step of several runs."""

    def __init__(self, values: dict[str, dict[str, Any]], dark: bool) -> None:
        self.values = values
        self.steps = [s for s in ("rm", "dpo") if any(s in enabled_steps(v) for v in values.values())]
        self.curves = Curves(self._sources(self.steps[-1]) if self.steps else [], dark)

    def build(self) -> None:
        """Add the card."""
        if not self.steps:
            return
        top = self.curves.build()
        if len(self.steps) > 1:
            with top:
                segments({s: s for s in self.steps}, self.steps[-1], self._choose, "Training step")
        live(self.curves.update)

    async def _choose(self, step: str) -> None:
        self.curves.use(self._sources(step))
        await self.curves.update()

    def _sources(self, step: str) -> list[Source]:
        return [source_of(name, values, step) for name, values in self.values.items() if step in enabled_steps(values)]


def _verdicts(values: dict[str, dict[str, Any]]) -> None:
    headlines: dict[str, dict[str, float]] = {}
    for name, document in values.items():
        try:
            folder = folder_of(document, "evaluation") if "evaluation" in enabled_steps(document) else None
            headlines[name] = verdict(folder.name).headline if folder else {}
        except AiosError:
            headlines[name] = {}
    rows: list[list[Any]] = [
        [words, *(_number(key, found.get(key)) for found in headlines.values())]
        for key, words in _HEADLINE.items()
        if any(key in found for found in headlines.values())
    ]
    if rows:
        table(["", *headlines], rows, right=tuple(range(1, len(headlines) + 1)), label="Verdicts side by side")
    else:
        tag("p", "None of these runs has a verdict yet.", "empty")


def _number(key: str, value: float | None) -> str:
    if value is None:
        return "–"
    if key.startswith("gain"):
        return f"{100 * value:+.1f}"
    return f"{value:.3f}" if key in ("auc", "kl_per_answer") else f"{100 * value:.1f}%"


def _differences(values: dict[str, dict[str, Any]]) -> None:
    flat = {name: _flat(document) for name, document in values.items()}
    keys = list(dict.fromkeys(key for settings in flat.values() for key in settings))
    rows: list[list[Any]] = [
        [key, *(str(settings.get(key, "default")) for settings in flat.values())]
        for key in keys
        if len({str(settings.get(key)) for settings in flat.values()}) > 1
    ]
    if rows:
        table(["Setting", *flat], rows, label="Settings that differ")
    else:
        tag("p", "They were started with the same settings.", "empty")


def _flat(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"data set": document["run"]["dataset"]}
    for step, settings in enabled_steps(document).items():
        found |= {f"{step} {key}": value for key, value in settings["args"].items() if key not in _OWN}
        found |= {f"{step} {key}": value for key, value in settings["args"].items() if key == "base_model"}
    return found
