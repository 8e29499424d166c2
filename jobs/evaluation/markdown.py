"""`report.md`: the report for a pull request or a terminal."""

from __future__ import annotations

from typing import Any

from jobs.evaluation.tables import Table, acceptance_tables, detail_tables, main_tables

DECISIONS = {"go": "GO", "no-go": "NO-GO", "not yet": "NOT YET"}


def to_markdown(report: dict[str, Any], plots: list[str]) -> str:
    """Return the report as Markdown; `plots` are names of files in `plots/`."""
    decision = report["acceptance"]["decision"]
    lines = [
        f"# Verdict: {report['name']}",
        "",
        f"**{report['verdict']['sentence']}**",
        "",
        *(f"- {finding['severity'].upper()}: {finding['text']}" for finding in report["findings"]),
        "",
        f"## Acceptance: {DECISIONS[decision]}",
        "",
    ]
    for table in acceptance_tables(report):
        lines += _table(table)
    lines += ["## Results", ""]
    for table in [*main_tables(report), *detail_tables(report)]:
        lines += _table(table)
    lines += [line for name in plots for line in (f"![{name}](plots/{name}.svg)", "")]
    lines += ["## What was compared", "", *_inputs(report), ""]
    return "\n".join(lines)


def _table(table: Table) -> list[str]:
    lines = [f"### {table.title}", "", _row(table.columns), _row(["---"] * len(table.columns))]
    lines += [_row(row) for row in table.rows]
    return [*lines, "", *([table.note, ""] if table.note else [])]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _inputs(report: dict[str, Any]) -> list[str]:
    data = report["inputs"]["dataset"]
    lines = [f"- data: `{data['path']}`, {data['pairs']} test pairs over {data['prompts']} prompts, `{data['sha256']}`"]
    lines += [
        f"- {role.replace('_', ' ')}: `{model['path']}`, `{model['sha256']}`"
        for role, model in report["inputs"].items()
        if role != "dataset"
    ]
    return [*lines, f"- seed {report['settings']['seed']}, {report['settings']['precision']} on {report['device']}"]
