"""The reward-model card: how well its scores order the held-out pairs, how sure it is, and what it leans on."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.evaluation import statistics
from jobs.evaluation.pairs import TestSet, text_of
from jobs.evaluation.statistics import Floats

LENGTH_MATCHED = 0.1
"""Two answers are of equal length when they differ by at most a tenth of the longer one."""
_GAP_EDGES = (-200.0, -50.0, -10.0, 10.0, 50.0, 200.0)
_LEANS_ON_LENGTH = 0.9


def reward_card(
    test: TestSet, chosen: Floats, rejected: Floats, *, seed: int, slice_by: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the card of a reward model from its scores, one per row of the test set (NaN: not scored)."""
    scored = np.isfinite(chosen) & np.isfinite(rejected)
    rows = np.flatnonzero(scored)
    margins, clusters = (chosen - rejected)[rows], statistics.clusters_of(test.clusters[rows].tolist())
    outcomes, gaps = statistics.wins(margins), test.length_gaps[rows]
    longer = statistics.wins(gaps)
    curve = statistics.calibration(margins)
    meta = [test.meta[i] for i in rows]
    matched = _length_matched(test, rows)
    return {
        "pairs": len(rows),
        "not_scored": int((~scored).sum()),
        "auc": statistics.auc_estimate(chosen[rows], rejected[rows], clusters, seed=seed).as_dict(),
        "accuracy": statistics.mean_estimate(outcomes, clusters, seed=seed).as_dict(),
        "ties": int((margins == 0).sum()),
        "margin": {"mean": float(margins.mean()), "std": float(margins.std())},
        "brier": statistics.brier(margins),
        "calibration_error": statistics.calibration_error(curve),
        "calibration": curve,
        "baselines": {
            "longer_wins": statistics.mean_estimate(longer, clusters, seed=seed).as_dict(),
            "first_option_wins": _first_option(meta, clusters, seed),
            "accuracy_minus_longer_wins": statistics.mean_estimate(outcomes - longer, clusters, seed=seed).as_dict(),
        },
        "length": _length(outcomes, margins, gaps, matched, clusters, seed),
        "by_length_gap": _by_length_gap(outcomes, gaps, clusters, seed),
        "by_agreement": _slices(outcomes, [_agreement(m) for m in meta], clusters, seed),
        "by_field": {field: _slices(outcomes, [_field(m, field) for m in meta], clusters, seed) for field in slice_by},
    }


def _length_matched(test: TestSet, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    longest = np.array(
        [max(1, len(text_of(test.rows[i]["chosen"])), len(text_of(test.rows[i]["rejected"]))) for i in rows]
    )
    return np.asarray(np.abs(test.length_gaps[rows]) <= LENGTH_MATCHED * longest)


def _subset(values: Floats, mask: NDArray[np.bool_], clusters: statistics.Ints, seed: int) -> dict[str, Any] | None:
    if not mask.any():
        return None
    inside = statistics.clusters_of(clusters[mask].tolist())
    return statistics.mean_estimate(values[mask], inside, seed=seed).as_dict()


def _length(
    outcomes: Floats,
    margins: Floats,
    gaps: Floats,
    matched: NDArray[np.bool_],
    clusters: statistics.Ints,
    seed: int,
) -> dict[str, Any]:
    """Return how far the scores follow length: does the model put the longer answer first, and is it right without."""
    unequal = gaps != 0
    follows = statistics.wins(margins * np.sign(gaps))
    card = {
        "matched": _subset(outcomes, matched, clusters, seed),
        "matched_minus_longer_wins": _subset(outcomes - statistics.wins(gaps), matched, clusters, seed),
        "longer_is_better": _subset(outcomes, gaps > 0, clusters, seed),
        "shorter_is_better": _subset(outcomes, gaps < 0, clusters, seed),
        "scores_the_longer_higher": _subset(follows, unequal, clusters, seed),
        "correlation": statistics.spearman(margins, gaps),
    }
    return card | {"learnt_only_length": _learnt_only_length(card)}


def _learnt_only_length(card: dict[str, Any]) -> bool:
    """Call it out when the longer (or always the shorter) answer wins nearly always and nothing else shows.

    A model that knows more is right where the length points the wrong way, or, on pairs of nearly equal length, more
    often than the few characters explain. One that knows length alone is neither.
    """
    follows = card["scores_the_longer_higher"]
    if follows is None or max(follows["value"], 1 - follows["value"]) < _LEANS_ON_LENGTH:
        return False
    against = card["shorter_is_better"] if follows["value"] > 0.5 else card["longer_is_better"]
    beyond = card["matched_minus_longer_wins"]
    return not ((against is not None and against["low"] > 0.5) or (beyond is not None and beyond["low"] > 0))


def _by_length_gap(outcomes: Floats, gaps: Floats, clusters: statistics.Ints, seed: int) -> list[dict[str, Any]]:
    """Return the accuracy by how many characters longer the chosen answer is."""
    edges = (-np.inf, *_GAP_EDGES, np.inf)
    buckets = []
    for low, high in itertools.pairwise(edges):
        accuracy = _subset(outcomes, (gaps > low) & (gaps <= high), clusters, seed)
        if accuracy is not None:
            label = [None if not np.isfinite(edge) else int(edge) for edge in (low, high)]
            buckets.append({"above": label[0], "up_to": label[1], "accuracy": accuracy})
    return buckets


def _slices(
    outcomes: Floats, labels: Sequence[str | None], clusters: statistics.Ints, seed: int
) -> list[dict[str, Any]]:
    """Return the accuracy of each group of rows that carry the same label, the largest groups first."""
    groups: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        if label is not None:
            groups.setdefault(label, []).append(row)
    slices = []
    for label, rows in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        mask = np.zeros(len(outcomes), dtype=np.bool_)
        mask[rows] = True
        slices.append({"value": label, "accuracy": _subset(outcomes, mask, clusters, seed)})
    return slices


def _agreement(meta: dict[str, Any]) -> str | None:
    """Return the share of annotators behind the chosen answer, as a label."""
    agreement = meta.get("agreement")
    return None if not isinstance(agreement, int | float) else f"{agreement:.0%} of {_voters(meta)}"


def _voters(meta: dict[str, Any]) -> str:
    votes = meta.get("votes")
    total = sum(v for v in votes.values() if isinstance(v, int | float)) if isinstance(votes, dict) else votes
    if isinstance(total, list):
        total = len(total)
    return f"{total:g}" if isinstance(total, int | float) else "?"


def _field(meta: dict[str, Any], field: str) -> str | None:
    value = (meta.get("metadata") or {}).get(field, meta.get(field))
    return None if value is None else str(value)


def _first_option(meta: list[dict[str, Any]], clusters: statistics.Ints, seed: int) -> dict[str, Any] | None:
    """Return how often the option that stood first was chosen, where ingestion knows the order."""
    known = np.array([isinstance(m.get("chosen_first"), bool) for m in meta], dtype=np.bool_)
    outcomes = np.array([float(m.get("chosen_first") is True) for m in meta])
    return _subset(outcomes, known, clusters, seed)


def most_disputed(test: TestSet, chosen: Floats, rejected: Floats, count: int) -> list[dict[str, Any]]:
    """Return the pairs on which the model is surest that people are wrong, ready for re-annotation."""
    margins = np.where(np.isfinite(chosen - rejected), chosen - rejected, np.inf)
    order = [int(i) for i in np.argsort(margins, kind="stable")[:count] if margins[i] < 0]
    return [
        {
            "id": test.meta[i].get("id"),
            "row": i,
            "prompt": test.rows[i]["prompt"],
            "response_a": test.rows[i]["chosen"],
            "response_b": test.rows[i]["rejected"],
            "people_prefer": "response_a",
            "model_prefers": "response_b",
            "margin": float(margins[i]),
            "meta": test.meta[i],
        }
        for i in order
    ]
