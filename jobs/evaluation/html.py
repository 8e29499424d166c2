"""`report.html`: one file without scripts or links, to be opened anywhere or attached to a mail."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

from jobs.evaluation.markdown import DECISIONS
from jobs.evaluation.pairs import text_of
from jobs.evaluation.tables import Table, acceptance_tables, detail_tables, main_tables

SAMPLES = 20
_CSS = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.5rem 0 1rem}td,th{border-bottom:1px solid #ddd;padding:.25rem .8rem .25rem 0;
text-align:left;vertical-align:top}.verdict{font-size:1.2rem;padding:1rem;border-left:6px solid #999;background:#f6f6f6}
.better{border-color:#2da44e}.worse{border-color:#cf222e}.no{border-color:#bf8700}.note{color:#666}
.warning{background:#fff8e1;padding:.5rem 1rem;margin:.4rem 0}pre{white-space:pre-wrap;margin:0;font:13px/1.4 monospace}
.wins{background:#e8f5e9}svg{display:block;margin:1rem 0}
"""


def to_html(report: dict[str, Any], drawn: dict[str, str], generations: Iterable[dict[str, Any]]) -> str:
    """Return the report as one self-contained page; every text of the data is escaped."""
    answer, decision = report["verdict"]["answer"], report["acceptance"]["decision"]
    parts = [
        f"<p class='verdict {answer.split()[0]}'>{escape(report['verdict']['sentence'])}</p>",
        *(
            f"<p class='{f['severity']}'>{f['severity'].capitalize()}: {escape(f['text'])}</p>"
            for f in report["findings"]
        ),
        drawn["estimates"],
        f"<h2>Acceptance: {DECISIONS[decision]}</h2>",
        *(_table(table) for table in acceptance_tables(report)),
        "<h2>Results</h2>",
        *(_table(table) for table in [*main_tables(report), *detail_tables(report)]),
        *(svg for name, svg in drawn.items() if name != "estimates"),
        *_samples(list(generations)[:SAMPLES]),
        "<h2>What was compared</h2>",
        _table(_inputs(report)),
    ]
    return page(f"Verdict: {report['name']}", parts)


def page(title: str, parts: list[str]) -> str:
    """Return a page that loads nothing from anywhere."""
    head = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>{escape(title)}</title><style>{_CSS}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
    ]
    return "\n".join([*head, *parts, "</body></html>\n"])


def _finding(severity: str, text: str) -> str:
    return f"<p class='{severity}'>{severity.capitalize()}: {escape(text)}</p>"


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    note = f"<p class='note'>{escape(table.note)}</p>" if table.note else ""
    return f"<h3>{escape(table.title)}</h3><table><tr>{head}</tr>{body}</table>{note}"


def _samples(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    lines = ["<h2>Samples side by side</h2><table><tr><th>Prompt</th><th>Policy</th><th>Reference</th></tr>"]
    for row in rows:
        won = row["outcome"]
        lines.append(
            f"<tr><td><pre>{escape(text_of(row['prompt']))}</pre></td>"
            f"<td class='{'wins' if won == 1 else ''}'><pre>{escape(row['policy'])}</pre></td>"
            f"<td class='{'wins' if won == 0 else ''}'><pre>{escape(row['reference'])}</pre></td></tr>"
        )
    return [*lines, "</table><p class='note'>Green: the answer that the judge prefers.</p>"]


def _inputs(report: dict[str, Any]) -> Table:
    rows = [
        [role.replace("_", " "), str(given["path"]), str(given["sha256"])] for role, given in report["inputs"].items()
    ]
    settings = report["settings"]
    note = f"Seed {settings['seed']}, {settings['precision']} on {report['device']}."
    return Table(title="Inputs", columns=["", "Path", "Hash of the content"], rows=rows, note=note)
