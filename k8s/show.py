"""Runs for the eye: the table of steps, a line where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from k8s.conductor import Phase
from k8s.view import RunView, StepView

_COLORS = {
    Phase.WAITING: "dim",
    Phase.RUNNING: "cyan",
    Phase.SUCCEEDED: "green",
    Phase.FAILED: "bold red",
    Phase.SKIPPED: "yellow",
}
_EVENTS, _LONGEST = 3, 400
_RUN_COLORS = {"succeeded": "green", "failed": "bold red", "running": "cyan", "stopped": "yellow", "stopping": "yellow"}


def duration(seconds: float | None) -> str:
    """Return 42 s, 3 min 05 s, 2 h 10 min."""
    if seconds is None or seconds < 0:
        return ""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def took(step: StepView) -> float | None:
    """Return how long the last attempt has run, in seconds."""
    if step.started_at is None:
        return None
    return (step.finished_at or time.time()) - step.started_at


def progress_text(step: StepView) -> str:
    """Return `37/100 loss 0.61 accuracy 0.64 margin 0.12`, whatever of it is known."""
    shown = step.progress
    parts = []
    if "step" in shown:
        of = f"/{shown['max_steps']}" if "max_steps" in shown else ""
        parts.append(f"step {shown['step']}{of}")
    parts += [f"{key} {shown[key]:.3g}" for key in ("loss", "accuracy", "margin") if key in shown]
    return "  ".join(parts)


def remaining_text(step: StepView) -> str:
    """Return the time left of a step that runs and says so."""
    return duration(step.progress.get("remaining_s")) if step.phase is Phase.RUNNING else ""


def steps_table(view: RunView) -> Table:
    """Return the table of a run's steps."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    nodes = any(step.node for step in view.steps)
    for title in ("STEP", "STATE", "ATTEMPT", *(("NODE",) if nodes else ()), "DURATION", "PROGRESS", "LEFT"):
        table.add_column(title, no_wrap=title != "PROGRESS")
    for step in view.steps:
        table.add_row(
            step.name,
            Text(step.state, style=_COLORS[step.phase]),
            str(step.attempt or ""),
            *((step.node,) if nodes else ()),
            duration(took(step)),
            progress_text(step),
            remaining_text(step),
        )
    return table


def headline(view: RunView) -> Text:
    """Return one line on the whole run."""
    text = Text.assemble(("Run ", "bold"), (view.name, "bold"), "  ")
    text.append(view.phase, style=_RUN_COLORS.get(view.phase, ""))
    if view.message:
        text.append(f"  {view.message}", style="red")
    return text


def plain(step: StepView) -> str:
    """Return a step in one line, for logs and pipes."""
    parts = [f"{step.name}: {step.state}"]
    if step.attempt > 1:
        parts.append(f"attempt {step.attempt}")
    if step.phase in (Phase.SUCCEEDED, Phase.FAILED):
        parts.append(duration(took(step)))
    parts += [part for part in (progress_text(step), step.message if step.phase is not Phase.SUCCEEDED else "") if part]
    return ", ".join(parts)


def evidence(view: RunView) -> list[str]:
    """Return what supports the diagnoses of a run's steps: the API's own words, the last events, what was changed."""
    lines = []
    for step in view.steps:
        told = [str(step.diagnosis.get("detail") or ""), *step.diagnosis.get("evidence", ())[-_EVENTS:], *step.repairs]
        lines += [f"{step.name}: {' '.join(text.split())[:_LONGEST]}" for text in told if text.strip()]
    return lines


def runs_table(views: Iterable[RunView]) -> Table:
    """Return the table of runs."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("RUN", "STATE", "PROFILE", "AGE", "STEPS"):
        table.add_column(title, no_wrap=True)
    for view in views:
        steps = "  ".join(f"{step.name} {step.state}" for step in view.steps)
        style = _RUN_COLORS.get(view.phase, "")
        table.add_row(
            view.name, Text(view.phase, style=style), view.profile, duration(time.time() - view.created), steps
        )
    return table
