"""Which plots a report has: name -> SVG. report.md links the files, report.html carries them inside."""

from __future__ import annotations

from typing import Any

import numpy as np

from jobs.evaluation.measure import Measured
from jobs.evaluation.svg import Bar, calibration_plot, forest, histograms


def plots(report: dict[str, Any], measured: Measured) -> dict[str, str]:
    """Draw what was measured."""
    drawn = {"estimates": forest("Estimates with 95 % intervals; dashed: no effect", estimate_bars(report))}
    if report["reward"] is not None:
        assert measured.rewards is not None
        chosen, rejected = (values[np.isfinite(values)] for values in measured.rewards)
        curve = report["reward"]["calibration"]
        drawn["calibration"] = calibration_plot("Calibration of the reward model", curve)
        drawn["rewards"] = histograms(
            "Rewards of held-out answers", [("chosen", chosen.tolist()), ("rejected", rejected.tolist())]
        )
        gaps = report["reward"]["by_length_gap"]
        if len(gaps) > 1:
            drawn["length"] = forest("Accuracy by characters that the chosen answer is longer", _length_bars(gaps))
    if report["policy"] is not None:
        assert measured.policy is not None
        assert measured.reference is not None
        margins = [
            (name, m.mean_margin()) for name, m in (("policy", measured.policy), ("reference", measured.reference))
        ]
        drawn["margins"] = histograms(
            "Log-probability per token, chosen minus rejected",
            [(name, m[np.isfinite(m)].tolist()) for name, m in margins],
        )
    return drawn


def estimate_bars(report: dict[str, Any]) -> list[Bar]:
    """Return the main numbers as bars, all as shares."""
    bars = []

    def add(label: str, estimate: dict[str, Any] | None, neutral: float) -> None:
        if estimate is not None and None not in (estimate["value"], estimate["low"], estimate["high"]):
            bars.append(
                Bar(label=label, value=estimate["value"], low=estimate["low"], high=estimate["high"], neutral=neutral)
            )

    if report["policy"] is not None:
        rates = report["policy"]["by_mean"]
        add("Gain over the reference", rates["gain"], 0.0)
        add("Policy: preference win-rate", rates["policy"], 0.5)
        add("Reference: preference win-rate", rates["reference"], 0.5)
    if report["generation"] is not None:
        add("Generation win-rate", report["generation"]["win_rate"], 0.5)
        add("  at equal lengths", report["generation"]["length_controlled_win_rate"], 0.5)
    if report["reward"] is not None:
        add("Reward model: AUC", report["reward"]["auc"], 0.5)
        add("Reward model: accuracy", report["reward"]["accuracy"], 0.5)
        add("  on pairs of equal length", report["reward"]["length"]["matched"], 0.5)
        add("Baseline: longer wins", report["reward"]["baselines"]["longer_wins"], 0.5)
    return bars


def _length_bars(gaps: list[dict[str, Any]]) -> list[Bar]:
    bars = []
    for bucket in gaps:
        accuracy = bucket["accuracy"]
        low, high = (accuracy[key] if accuracy[key] is not None else edge for key, edge in (("low", 0), ("high", 1)))
        above, up_to = ("…" if edge is None else edge for edge in (bucket["above"], bucket["up_to"]))
        name = f"{above} to {up_to}"
        bars.append(Bar(label=f"{name} ({accuracy['n']})", value=accuracy["value"], low=low, high=high, neutral=0.5))
    return bars
