"""What a person reads before and after a training: the plan of --dry-run, the table at the end."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

_ROWS = (
    ("steps", "steps"),
    ("best_step", "step of the published model"),
    ("loss_first_quarter", "loss, first quarter"),
    ("loss_last_quarter", "loss, last quarter"),
    ("eval_loss_first", "eval loss, before"),
    ("eval_loss_last", "eval loss, after"),
    ("eval_auc", "eval AUC"),
    ("eval_accuracy", "eval accuracy"),
    ("eval_margin", "eval margin"),
    ("precision", "precision"),
    ("train_time_s", "seconds in all"),
    ("peak_memory_mb", "peak memory, MB"),
)


LABELS = dict(_ROWS)


def readable(key: str, value: Any) -> str:
    """Return a figure as people read it: four decimals, seconds to a tenth."""
    if isinstance(value, float):
        return f"{value:.1f}" if key.endswith("_s") else f"{value:.4f}"
    return str(value)


def print_summary(title: str, summary: dict[str, Any]) -> None:
    """Print the figures of a finished training on stderr."""
    table = Table(title=title, show_header=False)
    for key, label in _ROWS:
        if key in summary:
            table.add_row(label, readable(key, summary[key]))
    Console(stderr=True).print(table)


def print_plan(sections: dict[str, dict[str, Any]]) -> None:
    """Print what a training would do on stdout, a heading per section."""
    width = max(len(key) for values in sections.values() for key in values)
    for heading, values in sections.items():
        print(f"{heading}:")  # noqa: T201 - the plan is this command's output
        for key, value in values.items():
            print(f"  {key:<{width}}  {value}")  # noqa: T201
