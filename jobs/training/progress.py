"""What a person sees while a training runs: a live bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import datetime
import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from jobs.contract.log import LOG

LINE_EVERY_S = 10.0
"""Plain lines are for logs that people scroll through; evaluations always get one."""

_SHOWN = ("loss", "accuracy", "margin", "eval_loss", "eval_auc", "eval_accuracy", "eval_margin")


class TrainingProgress:
    """Shows the lines of metrics.jsonl as they are written; silent on other processes than the first."""

    def __init__(self, title: str, *, silent: bool) -> None:
        self.title = title
        self.silent = silent
        self.steps = 0
        self._bar: Progress | None = None
        self._last_line = 0.0

    def begin(self, steps: int, done: int) -> None:
        """Start at step `done` of `steps`."""
        self.steps = steps
        if self.silent or not sys.stderr.isatty():
            return
        columns = (
            TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(),
            TextColumn("{task.fields[values]}"), TimeElapsedColumn(),
        )  # fmt: skip
        self._bar = Progress(*columns, console=Console(stderr=True))
        self._bar.start()
        self._task = self._bar.add_task(self.title, total=steps, completed=done, values="")

    def show(self, step: int, values: dict[str, Any]) -> None:
        """Show one line of metrics."""
        text = describe(values)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, values=text)
            # The bar keeps the newest figures only; what was measured on held-out pairs stays on the screen.
            if "eval_loss" in values:
                self._bar.print(f"{self.title} step {step}/{self.steps}  {text}", highlight=False)
        elif not self.silent and ("eval_loss" in values or time.monotonic() - self._last_line > LINE_EVERY_S):
            self._last_line = time.monotonic()
            LOG.info("%s step %d/%d  %s", self.title, step, self.steps, text)

    def close(self) -> None:
        """Give the terminal back, also after an error."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def describe(values: dict[str, Any]) -> str:
    """Return the figures of a line worth a glance: losses, rates, speed, time left."""
    parts = [f"{key} {values[key]:.4f}" for key in _SHOWN if values.get(key) is not None]
    if "tokens_per_s" in values:
        parts.append(f"{values['tokens_per_s']:,.0f} tokens/s")
    if values.get("remaining_s"):
        parts.append(f"{datetime.timedelta(seconds=round(values['remaining_s']))} left")
    return "  ".join(parts)
