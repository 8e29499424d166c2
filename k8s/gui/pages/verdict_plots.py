"""The plots of an evaluation report: drawn here where the report has the numbers, its own pictures for the rest."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Any

from nicegui import ui

from jobs.contract.errors import AiosError
from k8s.gui.charts import base, draw
from k8s.gui.files import inside
from k8s.gui.pages.elements import box, card, table

_PICTURES = {
    "estimates.svg": "Estimates with their 95 % intervals",
    "margins.svg": "Log-probability of chosen minus rejected, policy and reference",
    "rewards.svg": "Rewards of chosen and rejected answers",
}
_MAX_BYTES = 1 << 20


def interval(found: dict[str, Any], unit: str) -> tuple[str, str]:
    """Return an estimate and its interval as texts."""

    def say(number: Any) -> str:
        if not isinstance(number, int | float):
            return "?"
        if unit == "share":
            return f"{100 * number:.1f}%"
        return f"{100 * number:+.1f}" if unit == "points" else f"{number:+.3g}" if unit == "nats" else f"{number:.3f}"

    suffix = {"points": " points", "nats": " nats"}.get(unit, "")
    return say(found["value"]) + suffix, f"[{say(found.get('low'))}, {say(found.get('high'))}]"


def plots(report: dict[str, Any], folder: Path, dark: bool) -> None:
    """Add a card for each plot that the report has the numbers of, and those that only its files show."""
    reward = report.get("reward") or {}
    calibration = [p for p in reward.get("calibration") or [] if isinstance(p, dict)]
    gaps = [p for p in reward.get("by_length_gap") or [] if isinstance(p, dict)]
    agreement = [p for p in reward.get("by_agreement") or [] if isinstance(p, dict)]
    with box("grid"):
        if calibration:
            with card("Is the reward model as sure as it is right?", "span6"):
                _calibration(calibration, dark)
        if gaps:
            with card("Accuracy by how much longer the chosen answer is", "span6"):
                _accuracies({_gap(gap): gap["accuracy"] for gap in gaps}, "Tokens longer", dark)
        if len(agreement) > 1:
            with card("Accuracy by how far the annotators agreed", "span6"):
                _accuracies({str(part["value"]): part["accuracy"] for part in agreement}, "Agreement", dark)
        for name, words in _PICTURES.items():
            _picture(folder / "plots" / name, words)


def _calibration(points: list[dict[str, Any]], dark: bool) -> None:
    options = base(dark, "Accuracy against confidence")
    options["xAxis"] |= {
        "type": "value",
        "min": 0.5,
        "max": 1,
        "name": "confidence (across), accuracy (up)",
        "nameLocation": "middle",
    }
    options["xAxis"] |= {"nameGap": 26}
    options["yAxis"] |= {"type": "value", "min": 0, "max": 1}
    options["grid"] |= {"bottom": 24}
    options["series"] = [
        {"type": "line", "name": "perfect", "data": [[0.5, 0.5], [1, 1]], "symbol": "none",
         "lineStyle": {"type": "dashed", "width": 1}},
        {"type": "scatter", "name": "reward model", "symbolSize": 9,
         "data": [[round(p["confidence"], 4), round(p["accuracy"], 4)] for p in points]},
    ]  # fmt: skip
    draw(options, "Accuracy against confidence, in ten groups of pairs")
    with ui.expansion("As a table"):
        rows: list[list[Any]] = [
            [f"{p['confidence']:.3f}", f"{p['accuracy']:.3f}", f"[{p['low']:.2f}, {p['high']:.2f}]", p["n"]]
            for p in points
        ]
        table(["Confidence", "Accuracy", "Interval", "Pairs"], rows, right=(0, 1, 2, 3), label="Calibration")


def _accuracies(parts: dict[str, dict[str, Any]], heading: str, dark: bool) -> None:
    """Add bars, and what they stand for as a table."""
    words = f"Accuracy by {heading.lower()}"
    options = base(dark, words)
    options["xAxis"] |= {"type": "category", "data": list(parts)}
    options["yAxis"] |= {"type": "value", "min": 0, "max": 1}
    options["legend"]["show"] = False
    options["grid"]["top"] = 12
    heights = [round(part["value"], 4) for part in parts.values()]
    options["series"] = [{"type": "bar", "name": "accuracy", "data": heights, "barMaxWidth": 40}]
    draw(options, words)
    with ui.expansion("As a table"):
        rows: list[list[Any]] = [[name, *interval(part, "share"), part.get("n", "")] for name, part in parts.items()]
        table([heading, "Accuracy", "Interval", "Pairs"], rows, right=(1, 2, 3), label=words)


def _picture(path: Path, words: str) -> None:
    """Add a picture of the report. As an image: nothing in it can run, whoever wrote it."""
    try:
        data = inside(path).read_bytes()
    except (AiosError, OSError):
        return
    if len(data) > _MAX_BYTES:
        return
    with card(words, "span6"):
        image = box("picture", "img")
        image.props["src"] = f"data:image/svg+xml;base64,{b64encode(data).decode()}"
        image.props["alt"] = words


def _gap(gap: dict[str, Any]) -> str:
    low, high = gap.get("above"), gap.get("up_to")
    if low is None:
        return f"up to {high}"
    return f"above {low}" if high is None else f"{low} to {high}"
