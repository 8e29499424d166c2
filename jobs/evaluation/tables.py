"""The report's tables as plain cells: the terminal, report.md and report.html show the same ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jobs.evaluation.acceptance import points

MARKS = {True: "✔", False: "✘", None: "–"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A title, the names of the columns, the rows, and what the numbers mean."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""


def interval(estimate: dict[str, Any] | None, *, percent: bool = True) -> str:
    """Write an estimate with its interval, or a dash."""
    if estimate is None or estimate["value"] is None:
        return "–"
    if percent:
        low, high = (
            _bound(None if estimate[key] is None else 100 * estimate[key], "{:.1f}") for key in ("low", "high")
        )
        return f"{100 * estimate['value']:.1f} % [{low}, {high}]"
    low, high = (_bound(estimate[key], "{:.3f}") for key in ("low", "high"))
    return f"{estimate['value']:.3f} [{low}, {high}]"


def _bound(value: float | None, form: str) -> str:
    return "?" if value is None else form.format(value)


def main_tables(report: dict[str, Any]) -> list[Table]:
    """Return the tables that answer at a glance."""
    tables = []
    if report["policy"] is not None:
        tables.append(_policy(report["policy"]))
    if report["generation"] is not None:
        tables.append(_generation(report["generation"]))
    if report["reward"] is not None:
        tables.append(_reward(report["reward"]))
    return tables


def detail_tables(report: dict[str, Any]) -> list[Table]:
    """Return the tables for those who look closer."""
    return [] if report["reward"] is None else _reward_details(report["reward"])


def acceptance_tables(report: dict[str, Any]) -> list[Table]:
    """Return the checklists with a tick, a cross or a dash for each line."""
    return [
        Table(
            title=checklist["title"],
            columns=["", "Acceptance", "Found"],
            rows=[[MARKS[line["passed"]], line["text"], line["found"]] for line in checklist["lines"]],
        )
        for checklist in report["acceptance"]["checklists"]
    ]


def _policy(card: dict[str, Any]) -> Table:
    rows = []
    for name, key in (("Preference win-rate, mean per token", "by_mean"), ("  the same, sum over tokens", "by_sum")):
        rates = card[key]
        rows.append(
            [
                name,
                interval(rates["policy"]),
                interval(rates["reference"]),
                points(rates["gain"]),
                f"{rates['mcnemar_p']:.2g}",
                rates["conclusion"],
            ]
        )
    change = card["change_of_logp"]
    return Table(
        title=f"Policy against reference, {card['pairs']} held-out pairs",
        columns=["", "Policy", "Reference", "Gain", "p", ""],
        rows=rows,
        note=f"Log-probability of chosen answers {change['chosen']['value']:+.2f} nats, of rejected ones "
        f"{change['rejected']['value']:+.2f}; implicit reward margin "
        f"{interval(card['implicit_reward']['margin'], percent=False)} at beta {card['implicit_reward']['beta']:g}, "
        f"positive on {card['implicit_reward']['accuracy']['value']:.1%}.",
    )


def _generation(card: dict[str, Any]) -> Table:
    p = card.get("sign_test_p")
    kl = card["kl"]
    return Table(
        title=f"Own answers to {card['prompts']} held-out prompts, compared {card['judge']['label']}",
        columns=["", "Policy wins", "p", ""],
        rows=[
            ["Generation win-rate", interval(card["win_rate"]), "–" if p is None else f"{p:.2g}", card["conclusion"]],
            ["  at equal lengths", interval(card["length_controlled_win_rate"]), "", ""],
        ],
        note=f"Divergence from the reference {interval(kl['per_answer'], percent=False)} nats per answer "
        f"({kl['per_token']:.3f} per token); answers of {card['length']['policy_chars']:.0f} against "
        f"{card['length']['reference_chars']:.0f} characters; {card['missing']} without a verdict.",
    )


def _reward(card: dict[str, Any]) -> Table:
    baselines, length = card["baselines"], card["length"]
    return Table(
        title=f"Reward model, {card['pairs']} held-out pairs",
        columns=["", "Value [95 % interval]"],
        rows=[
            ["AUC", interval(card["auc"], percent=False)],
            ["Pairwise accuracy", interval(card["accuracy"])],
            ["  on pairs of equal length", interval(length["matched"])],
            ["  where the shorter answer is better", interval(length["shorter_is_better"])],
            ["Baseline: longer wins", interval(baselines["longer_wins"])],
            ["Baseline: first option wins", interval(baselines["first_option_wins"])],
            ["Brier score of sigmoid(margin)", f"{card['brier']:.3f} (0.25 is a coin)"],
            ["Calibration error", f"{card['calibration_error']:.3f}"],
        ],
    )


def _reward_details(card: dict[str, Any]) -> list[Table]:
    def label(bucket: dict[str, Any]) -> str:
        low, high = bucket["above"], bucket["up_to"]
        if low is None:
            return f"{high:+d} or less"
        return f"more than {low:+d}" if high is None else f"{low:+d} to {high:+d}"

    tables = [
        Table(
            title="Accuracy by length difference (characters of chosen minus rejected)",
            columns=["Difference", "Accuracy", "Pairs"],
            rows=[[label(b), interval(b["accuracy"]), str(b["accuracy"]["n"])] for b in card["by_length_gap"]],
        ),
        _slice_table("Accuracy by agreement of the annotators", card["by_agreement"]),
        *(_slice_table(f"Accuracy by {field}", slices) for field, slices in card["by_field"].items()),
    ]
    return [table for table in tables if table.rows]


def _slice_table(title: str, slices: list[dict[str, Any]]) -> Table:
    return Table(
        title=title,
        columns=["", "Accuracy", "Pairs"],
        rows=[[s["value"], interval(s["accuracy"]), str(s["accuracy"]["n"])] for s in slices],
    )
