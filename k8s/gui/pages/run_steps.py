"""The steps of a run as a table: state, progress, duration, attempt, node, and what went wrong."""

from __future__ import annotations

from jobs.contract.errors import ExitCode
from k8s.conductor import Phase
from k8s.gui.pages.elements import badge, box, cell, row, scrolling, stacked, tag
from k8s.show import duration, progress_text, remaining_text, took
from k8s.view import RunView, StepView


def steps_table(view: RunView) -> None:
    """Add the table; on a phone each step is a block of its own."""
    with scrolling("Steps"), stacked(("Step", "State", "Progress", "Duration", "Attempt", "Node")):
        for step in view.steps:
            _step(step)


def _step(step: StepView) -> None:
    with row():
        cell(step.name).style("font-weight: 550")
        with cell():
            badge(step.state)
        with cell(classes="wide"):
            _progress(step)
        cell(duration(took(step)), "nowrap number")
        cell(str(step.attempt or ""), "number").props["data-name"] = "attempt"
        cell(step.node, "muted breakable").props["data-name"] = "on"


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
        # Interrupted: somebody asked for it. Skipped: the fault is another step's.
        innocent = step.exit_code == ExitCode.INTERRUPTED or step.phase is Phase.SKIPPED
        code = f" (exit code {step.exit_code})" if step.exit_code and not innocent else ""
        tag("div", f"{step.message}{code}", f"breakable {'muted' if innocent else 'wrong'}")
