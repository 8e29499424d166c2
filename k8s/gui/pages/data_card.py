"""A data set at a glance, from its schema_report.json."""

from __future__ import annotations

import time
from typing import Any

from jobs.contract.splits import REPORT_NAME
from k8s.gui.charts import histogram
from k8s.gui.datasets import DataSet
from k8s.gui.pages.elements import box, card, copy_button, facts, file_link, folder_link, note, stats, table, tag


def summary(data: DataSet) -> None:
    """Add the counts: what a person wants to know before training."""
    report, splits = data.report, data.splits()
    totals = report.get("totals") or {}
    shown = {}
    if "records" in totals:
        shown = {"records in": f"{totals['records']:,}", "dropped": f"{totals.get('dropped', 0):,}"}
    if isinstance(report.get("validity"), int | float):
        shown["valid"] = f"{report['validity']:.1%}"
    shown["pairs"] = f"{sum(splits.values()):,}"
    shown |= {name: f"{count:,}" for name, count in splits.items()}
    stats(shown)
    for warning in report.get("warnings") or []:
        note(str(warning), "warn")


def drops_in_words(data: DataSet) -> None:
    """Add a line that says what was dropped, the most frequent reasons first."""
    drops = [f"{reason.replace('_', ' ')} {count:,}" for reason, (count, _) in data.drops().items()]
    if drops:
        more = f", {len(drops) - 4} more reasons" if len(drops) > 4 else ""
        tag("p", f"Dropped: {', '.join(drops[:4])}{more}", "hint")


def full(data: DataSet, dark: bool) -> None:
    """Add everything that the report says."""
    with box("grid"):
        with card("Counts", "span7") as top:
            with top:
                tag("span", time.strftime("%Y-%m-%d %H:%M", time.localtime(data.created)), "hint")
            summary(data)
            folder = str(data.folder)
            with box("line"):
                tag("code", folder, "breakable")
                copy_button(lambda: folder, "Copy path")
                folder_link("Open dataset folder", data.folder, "button small")
                file_link("Download report", (data.folder / REPORT_NAME).as_posix(), "button small")
        with card("People and bias", "span5"):
            facts(_quality(data.report))
        with card("Dropped records", "span7"):
            _drops(data)
        with card("Lengths", "span5") as top:
            _lengths(data.report, top, dark)
        with card("How it was made", "span12"):
            facts(_origin(data.report))


def _share(value: Any) -> str:
    return f"{value:.1%}" if isinstance(value, int | float) else "not known"


def _quality(report: dict[str, Any]) -> dict[str, str]:
    agreement, bias, answers = (report.get(key) or {} for key in ("agreement", "bias", "answers"))
    alpha = agreement.get("krippendorff_alpha")
    pii = report.get("pii") or {}
    entities = ", ".join(f"{name} {count:,}" for name, count in (pii.get("entities") or {}).items())
    return {
        "Annotators": str(answers.get("annotators", "not known")),
        "Agreement of vote pairs": _share(agreement.get("pairwise")),
        "Krippendorff's alpha": f"{alpha:.3f}" if isinstance(alpha, int | float) else "not known",
        "The longer answer wins": _share(bias.get("longer_wins")),
        "The first option wins": _share(bias.get("first_option_wins")),
        "Personal data": (f"replaced: {entities}" if entities else "replaced: nothing found")
        if pii.get("anonymized")
        else "not looked for (--anonymize)",
    }


def _drops(data: DataSet) -> None:
    drops = data.drops()
    if not drops:
        tag("p", "No record was dropped.", "empty")
        return
    records = (data.report.get("totals") or {}).get("records") or 0
    rows: list[list[Any]] = [
        [reason.replace("_", " "), f"{count:,}", f"{count / records:.1%}" if records else "", ", ".join(ids[:5])]
        for reason, (count, ids) in drops.items()
    ]
    table(["Reason", "Records", "Share", "For instance"], rows, right=(1, 2), label="Dropped records by reason")


def _lengths(report: dict[str, Any], top: Any, dark: bool) -> None:
    lengths = report.get("lengths") or {}
    parts = {name: lengths[name] for name in ("prompt", "chosen", "rejected") if (lengths.get(name) or {}).get("count")}
    if not parts:
        tag("p", "The report has no lengths.", "empty")
        return
    with top:
        tag("span", "tokens" if lengths.get("exact") else "tokens, about 4 characters each", "hint")
    histogram({name: part["histogram"] for name, part in parts.items() if "histogram" in part}, dark)
    rows: list[list[Any]] = [
        [name, *(f"{part.get(key, 0):,}" for key in ("p5", "p50", "p95", "max"))] for name, part in parts.items()
    ]
    table(["", "5 %", "median", "95 %", "longest"], rows, right=(1, 2, 3, 4), label="Lengths in tokens")


def _origin(report: dict[str, Any]) -> dict[str, str]:
    decision = report.get("decision") or {}
    found = {}
    for entry in report.get("inputs") or []:
        if isinstance(entry, dict):
            found["Export"] = f"{entry.get('file')}, sha256 {str(entry.get('sha256'))[:16]}…"
    if decision:
        found["Kind of export"] = str(decision.get("variant_text") or decision.get("variant") or "")
        asked = decision.get("question") or ""
        found["Question"] = ", ".join(map(str, asked)) if isinstance(asked, list) else str(asked)
    settings = report.get("settings") or {}
    found["Settings"] = ", ".join(
        f"{name} {value}" for name, value in settings.items() if value not in (None, False, [], ())
    )
    return {name: value for name, value in found.items() if value} or {"Settings": "not recorded"}
