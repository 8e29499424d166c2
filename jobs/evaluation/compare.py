"""`aios hrm-hf compare`: several evaluations in one table and one plot.

    aios hrm-hf compare artifacts/evaluation/a artifacts/evaluation/b --output comparison.html

Reports on different test data stand in one table only with a warning: their numbers do not compare.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import click
import orjson
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from jobs.config.scoring import CompareConfig
from jobs.contract.errors import BadConfig
from jobs.contract.files import write_atomic
from jobs.contract.manifest import verify
from jobs.options import config_options

COLUMNS = {
    "verdict": "Verdict",
    "gain": "Gain",
    "win_rate": "Win-rate",
    "reference_win_rate": "Reference",
    "generation_win_rate": "Generations",
    "length_controlled_win_rate": "Equal lengths",
    "kl_per_answer": "KL, nats",
    "auc": "RM AUC",
    "accuracy": "RM accuracy",
}
DIFFERENT_DATA = "Warning: the reports are about different test data; their numbers do not compare."


@click.command("compare")
@config_options(CompareConfig)
def command(config: CompareConfig) -> None:
    """Put several evaluations side by side, the best first.

    \b
    Example:
      aios hrm-hf compare artifacts/evaluation/beta-0.1 artifacts/evaluation/beta-0.5
    """
    comparison = compare(config)
    if config.output is not None:
        _write(Path(config.output), comparison)
    if config.json:
        click.echo(orjson.dumps(comparison, option=orjson.OPT_INDENT_2).decode())
    else:
        _print(comparison)


def compare(config: CompareConfig) -> dict[str, Any]:
    """Read the reports and line their numbers up.

    Raises:
        UpstreamMissing: a folder is no published evaluation.
        BadConfig: there is no such number to sort by.
    """
    rows = [_row(Path(folder)) for folder in dict.fromkeys(config.reports)]
    if config.sort not in rows[0]["numbers"]:
        known = ", ".join(rows[0]["numbers"])
        raise BadConfig(f"--sort {config.sort}: no such number", needed=f"one of {known}")

    def rank(row: dict[str, Any]) -> tuple[bool, float]:
        value = row["numbers"][config.sort]
        return value is None, -(value or 0.0)

    rows.sort(key=rank)
    same = len({row["dataset_sha256"] for row in rows}) == 1
    return {"sorted_by": config.sort, "same_test_data": same, "reports": rows}


def _row(folder: Path) -> dict[str, Any]:
    verify(folder, step="evaluation")
    report = orjson.loads((folder / "report.json").read_bytes())
    gain = report["policy"]["by_mean"]["gain"] if report["policy"] else None
    return {
        "name": report["name"],
        "folder": str(folder),
        "dataset_sha256": report["inputs"]["dataset"]["sha256"],
        "verdict": report["verdict"]["answer"],
        "decision": report["acceptance"]["decision"],
        "gain": gain,
        "numbers": report["headline"],
        "warnings": [finding["code"] for finding in report["findings"] if finding["severity"] == "warning"],
    }


def _cells(row: dict[str, Any]) -> list[str]:
    from jobs.evaluation.acceptance import points

    cells = [row["name"], row["verdict"], "–" if row["gain"] is None else points(row["gain"])]
    for key in list(COLUMNS)[2:]:
        value = row["numbers"].get(key)
        plain = key in {"kl_per_answer", "auc"}
        cells.append("–" if value is None else f"{value:.3f}" if plain else f"{100 * value:.1f} %")
    return cells


def _print(comparison: dict[str, Any]) -> None:
    console = Console(highlight=False) if Console().is_terminal else Console(highlight=False, width=160)
    table = RichTable(box=None, header_style="dim")
    for column in ["", *COLUMNS.values()]:
        table.add_column(column, no_wrap=True)
    for row in comparison["reports"]:
        table.add_row(*(Text(cell) for cell in _cells(row)))
    console.print(table)
    if not comparison["same_test_data"]:
        console.print(Text(DIFFERENT_DATA, style="yellow"))


def _write(path: Path, comparison: dict[str, Any]) -> None:
    if path.suffix == ".json":
        content = orjson.dumps(comparison, option=orjson.OPT_INDENT_2).decode()
    elif path.suffix == ".html":
        content = _html(comparison)
    elif path.suffix == ".md":
        lines = [["", *COLUMNS.values()], ["---"] * (len(COLUMNS) + 1), *map(_cells, comparison["reports"])]
        content = "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
        content += "" if comparison["same_test_data"] else f"\n{DIFFERENT_DATA}\n"
    else:
        raise BadConfig(f"--output {path}", needed="a name that ends in .md, .html or .json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content.encode())


def _html(comparison: dict[str, Any]) -> str:
    """Return a page with the plot of gains and the table."""
    from jobs.evaluation.html import page
    from jobs.evaluation.svg import Bar, forest

    rows = comparison["reports"]
    bars = [
        Bar(label=row["name"], value=gain["value"], low=gain["low"], high=gain["high"], neutral=0.0)
        for row in rows
        if (gain := row["gain"]) is not None and gain["low"] is not None and gain["high"] is not None
    ]
    head = "".join(f"<th>{escape(column)}</th>" for column in ["", *COLUMNS.values()])
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in _cells(row)) + "</tr>" for row in rows)
    parts = [] if comparison["same_test_data"] else [f"<p class='warning'>{escape(DIFFERENT_DATA)}</p>"]
    parts += [forest("Gain over the reference, 95 % intervals", bars)] if bars else []
    return page("Comparison of evaluations", [*parts, f"<table><tr>{head}</tr>{body}</table>"])
