"""Plots of a report: why records were dropped, how long the texts are, who won and who answered."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

_INK, _ACCENT, _PALE = "#334155", "#2563eb", "#94a3b8"


def draw(report: dict[str, Any], folder: Path, kind: str) -> list[Path]:
    """Draw every plot that the report has data for and return the files."""
    import matplotlib as mpl

    mpl.use("Agg")
    # Without this an SVG differs from run to run by its ids and its date.
    mpl.rcParams["svg.hashsalt"] = "aios"
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, plot in (("drops", _drops), ("lengths", _lengths), ("verdicts", _verdicts), ("annotators", _annotators)):
        figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
        if plot(report, axes):
            axes.spines[["top", "right"]].set_visible(False)
            path = folder / f"{name}.{kind}"
            figure.savefig(path, dpi=120, metadata={"Date": None} if kind == "svg" else None)
            drawn.append(path)
        plt.close(figure)
    return drawn


def _drops(report: dict[str, Any], axes: Any) -> bool:
    counts = {reason: drop["count"] for reason, drop in report["drops"].items()}
    counts["pairs kept"] = report["totals"]["pairs"]
    names = sorted(counts, key=lambda name: counts[name])
    bars = axes.barh(names, [counts[n] for n in names], color=[_ACCENT if n == "pairs kept" else _PALE for n in names])
    axes.bar_label(bars, fmt="{:,.0f}", padding=3, color=_INK)
    axes.set_title(f"What became of {report['totals']['records']:,} records")
    return True


def _lengths(report: dict[str, Any], axes: Any) -> bool:
    lengths = report["lengths"]
    if not lengths["prompt"]["count"]:
        return False
    edges = lengths["prompt"]["histogram"]["edges"]
    labels = [f"{low}-{high - 1}" for low, high in itertools.pairwise(edges)] + [f"{edges[-1]}+"]
    used = max(
        i for key in ("prompt", "chosen", "rejected") for i, n in enumerate(lengths[key]["histogram"]["counts"]) if n
    )
    for offset, key in enumerate(("prompt", "chosen", "rejected")):
        counts = lengths[key]["histogram"]["counts"][: used + 1]
        color = (_PALE, _ACCENT, _INK)[offset]
        axes.bar([i + 0.27 * (offset - 1) for i in range(used + 1)], counts, width=0.26, label=key, color=color)
    axes.set_xticks(range(used + 1), labels[: used + 1], rotation=30)
    axes.set_xlabel("tokens" if lengths["exact"] else "tokens (about 4 characters each)")
    axes.set_ylabel("pairs")
    axes.legend(frameon=False)
    axes.set_title("Length of prompts and answers")
    return True


def _verdicts(report: dict[str, Any], axes: Any) -> bool:
    verdicts = report["verdicts"]
    names = ["votes_first", "votes_second", "votes_tie"]
    if not any(verdicts[name] for name in names):
        return False
    bars = axes.bar(["first option", "second option", "tie"], [verdicts[n] for n in names], color=_ACCENT)
    axes.bar_label(bars, fmt="{:,.0f}", color=_INK)
    agreement = report["agreement"]
    alpha = agreement["krippendorff_alpha"]
    tail = "" if alpha is None else f" (agreement {agreement['pairwise']:.0%}, alpha {alpha:.2f})"
    axes.set_title(f"Submitted votes{tail}")
    return True


def _annotators(report: dict[str, Any], axes: Any) -> bool:
    people = report["answers"]["by_annotator"]
    if not people:
        return False
    shown = sorted(people, key=lambda user: -sum(people[user].values()))[:20]
    left = [0] * len(shown)
    for status, color in (("submitted", _ACCENT), ("draft", _PALE), ("discarded", _INK)):
        counts = [people[user].get(status, 0) for user in shown]
        axes.barh([user[:8] for user in shown], counts, left=left, color=color, label=status)
        left = [a + b for a, b in zip(left, counts, strict=True)]
    axes.invert_yaxis()
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=3)
    axes.set_title(f"Answers of {len(people)} annotators" + (", the 20 busiest" if len(people) > 20 else ""))
    return True
