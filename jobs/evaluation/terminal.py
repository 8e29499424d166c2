"""The verdict on the terminal: one look is enough."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table as RichTable
from rich.text import Text

from jobs.evaluation.markdown import DECISIONS
from jobs.evaluation.tables import Table, acceptance_tables, main_tables

_COLOURS = {"better": "green", "worse": "red", "no difference": "yellow"}
_DECISION_COLOURS = {"go": "green", "no-go": "red", "not yet": "yellow"}
_MARK_COLOURS = {"✔": "green", "✘": "red", "–": "yellow"}


def show(report: dict[str, Any], settings: dict[str, Any]) -> None:
    """Print tables, checklists and the verdict, the verdict last, where the eye is."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=120)
    for table in main_tables(report):
        _print(console, table)
    for table in acceptance_tables(report):
        _print(console, table)
    for finding in report["findings"]:
        colour = "yellow" if finding["severity"] == "warning" else "cyan"
        console.print(Text(f"{finding['severity'].capitalize()}: {finding['text']}", style=colour))
    answer, decision = report["verdict"]["answer"], report["acceptance"]["decision"]
    console.print(Panel(Text(report["verdict"]["sentence"], style="bold"), border_style=_COLOURS[answer]))
    console.print(Text(f"Acceptance: {DECISIONS[decision]}", style=f"bold {_DECISION_COLOURS[decision]}"))
    for reason in report["acceptance"]["reasons"]:
        console.print(Text(f"  ✘ {reason}", style=_DECISION_COLOURS[decision]))
    times = ", ".join(f"{name} {seconds:g} s" for name, seconds in report["timings_s"].items())
    console.print(Text(f"{report['device']}, {report['settings']['precision']}: {times}", style="dim"))
    console.print(Text(f"Report: {settings['output_dir']}/report.md", style="dim"))


def _print(console: Console, table: Table) -> None:
    console.print(Text(table.title, style="bold"))
    grid = RichTable(header_style="dim", box=None)
    for column in table.columns:
        grid.add_column(column, no_wrap=True)
    for row in table.rows:
        grid.add_row(*(Text(cell, style=_MARK_COLOURS.get(cell, "")) for cell in row))
    console.print(grid)
    if table.note:
        console.print(Text(table.note, style="dim"))
    console.print()
