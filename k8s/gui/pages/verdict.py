"""Verdicts: the evaluation's report with its intervals, the acceptance checklist, and what both models answered."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from urllib.parse import quote

from starlette.requests import Request

from jobs.contract.errors import AiosError
from k8s.gui.pages.answers import Answers
from k8s.gui.pages.elements import box, card, facts, file_link, folder_link, link, note, sections, table, tag
from k8s.gui.pages.frame import frame, missing, scheme
from k8s.gui.pages.verdict_plots import interval, plots
from k8s.gui.verdicts import Verdict, lines, verdict, verdicts

_FILES = ("report.html", "report.md", "report.json")
_DECISIONS = {"go": "good", "no-go": "bad", "not yet": "warn"}
_NUMBERS = (
    ("Policy", "preference win-rate of the policy", ("policy", "by_mean", "policy"), "share"),
    ("Policy", "the same of its reference", ("policy", "by_mean", "reference"), "share"),
    ("Policy", "gain", ("policy", "by_mean", "gain"), "points"),
    ("Policy", "gain, sum over tokens", ("policy", "by_sum", "gain"), "points"),
    ("Policy", "change of log-probability, chosen", ("policy", "change_of_logp", "chosen"), "nats"),
    ("Policy", "change of log-probability, rejected", ("policy", "change_of_logp", "rejected"), "nats"),
    ("Policy", "implicit reward margin", ("policy", "implicit_reward", "margin"), ""),
    ("Own answers", "generation win-rate", ("generation", "win_rate"), "share"),
    ("Own answers", "the same at equal lengths", ("generation", "length_controlled_win_rate"), "share"),
    ("Own answers", "divergence from the reference", ("generation", "kl", "per_answer"), "nats"),
    ("Reward model", "AUC", ("reward", "auc"), ""),
    ("Reward model", "pairwise accuracy", ("reward", "accuracy"), "share"),
    ("Reward model", "accuracy at matched lengths", ("reward", "length", "matched"), "share"),
    ("Reward model", "baseline: the longer answer wins", ("reward", "baselines", "longer_wins"), "share"),
    ("Reward model", "baseline: the first option wins", ("reward", "baselines", "first_option_wins"), "share"),
)
"""Heading, words, place in report.json, unit."""


async def listing(request: Request) -> None:
    """Show all verdicts."""
    found = await asyncio.to_thread(verdicts)
    with frame(request, "Verdicts", "/verdicts"):
        pass
    with card():
        if not found:
            tag("p", "No verdict yet: the step `evaluation` of a run writes one.", "empty")
            return
        rows: list[list[Any]] = [
            [
                lambda item=item: link(item.name, f"/verdicts/{quote(item.name)}"),
                lambda item=item: tag("span", item.sentence, "breakable"),
                _points(item.headline.get("gain")),
                _plain(item.headline.get("auc")),
                time.strftime("%Y-%m-%d %H:%M", time.localtime(item.created)),
            ]
            for item in found
        ]
        table(["Name", "Verdict", "Gain", "AUC", "When"], rows, right=(2, 3), label="Verdicts")


async def page(request: Request, name: str) -> None:
    """Show one verdict."""
    try:
        found = await asyncio.to_thread(verdict, name)
    except AiosError as exc:
        missing(request, exc)
        return
    dark = scheme(request) == "dark"
    with frame(request, f"Verdict: {found.name}", "/verdicts") as titles, titles:
        decision = str((found.report.get("acceptance") or {}).get("decision") or "")
        if decision:
            tag("span", decision, f"badge {_DECISIONS.get(decision.lower(), '')}")
        box("grow")
        for name in _FILES:
            if (found.folder / name).is_file():
                file_link(name, f"{found.folder.as_posix()}/{name}", "button small")
        folder_link("All files", found.folder, "button small")
    note(found.sentence, found.tone)
    for finding in found.report.get("findings") or []:
        if isinstance(finding, dict):
            note(str(finding.get("text")), "warn" if finding.get("severity") in ("warning", "error") else "")
    with box("grid"):
        with card("Numbers, with 95 % intervals", "span7"):
            _numbers(found.report)
        with card("Acceptance", "span5"):
            _acceptance(found.report)
    plots(found.report, found.folder, dark)
    Answers(await asyncio.to_thread(lines, found.folder / "generations.jsonl")).build()
    with card("What was compared"):
        facts(_inputs(found))


def _dig(report: dict[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = report
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _numbers(report: dict[str, Any]) -> None:
    groups: dict[str, list[list[Any]]] = {}
    for group, words, path, unit in _NUMBERS:
        found = _dig(report, path)
        if isinstance(found, dict) and isinstance(found.get("value"), int | float):
            groups.setdefault(group, []).append([words, *interval(found, unit), f"{found.get('n', '')}"])
    if not groups:
        tag("p", "The report holds no numbers.", "empty")
        return
    sections(
        ["", "Value", "Interval", "n"],
        groups,
        right=(1, 2, 3),
        label="Numbers of the report",
        classes="plain stacked lead",
    )


def _points(value: float | None) -> str:
    return "" if value is None else f"{100 * value:+.1f} points"


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _acceptance(report: dict[str, Any]) -> None:
    lists = (report.get("acceptance") or {}).get("checklists") or []
    if not lists:
        tag("p", "The report has no checklist.", "empty")
    for checklist in lists:
        tag("h3", str(checklist.get("title") or checklist.get("name") or ""))
        with box("rows").style("gap: 4px"):
            for line in checklist.get("lines") or []:
                passed = line.get("passed")
                mark, tone, said = {True: ("✓", "good", "passed"), False: ("✗", "bad", "failed")}.get(
                    passed, ("–", "", "not judged")
                )
                with box("check"):
                    tag("span", mark, f"mark {tone}").props(f'role="img" aria-label="{said}"')
                    with box(""):
                        tag("span", str(line.get("text")))
                        tag("div", str(line.get("found") or ""), "hint breakable")


def _inputs(found: Verdict) -> dict[str, str]:
    inputs = found.report.get("inputs") or {}
    shown = {}
    for name, words in (
        ("policy", "Policy"),
        ("reference", "Reference"),
        ("reward_model", "Reward model"),
        ("dataset", "Pairs"),
    ):
        entry = inputs.get(name)
        if isinstance(entry, dict):
            more = f", {entry['pairs']} pairs of {entry.get('split')}" if "pairs" in entry else ""
            shown[words] = f"{entry.get('path')}{more}, sha256 {str(entry.get('sha256'))[:16]}…"
    judge = (found.report.get("generation") or {}).get("judge") or {}
    if judge:
        shown["Judge"] = str(judge.get("label") or judge.get("kind"))
    return shown | {"Device": str(found.report.get("device") or "not recorded")}
