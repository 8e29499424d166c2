"""How far annotators agree: pairwise percentage and Krippendorff's alpha (nominal), from vote tallies per record."""

from __future__ import annotations

from collections import Counter
from typing import Any

Tally = tuple[int, int, int]


def agreement(tallies: Counter[Tally]) -> dict[str, Any]:
    """Return agreement over the records with at least two votes.

    alpha = 1 - observed / expected disagreement over pairable values (Krippendorff 2011, nominal metric); None where
    nothing can be compared, or where all votes are the same and expectation is zero.
    """
    compared = [(tally, count) for tally, count in tallies.items() if sum(tally) >= 2]
    records = sum(count for _, count in compared)
    if not records:
        return {"records": 0, "pairwise": None, "krippendorff_alpha": None}
    pairs = sum(_pairs(sum(tally)) * count for tally, count in compared)
    equal = sum(sum(_pairs(votes) for votes in tally) * count for tally, count in compared)
    totals = [sum(tally[i] * count for tally, count in compared) for i in range(3)]
    values = sum(totals)
    # Coincidences off the diagonal: each record's ordered pairs of unequal votes, weighted by 1 / (votes - 1).
    observed = sum((sum(t) ** 2 - sum(v * v for v in t)) / (sum(t) - 1) * count for t, count in compared)
    expected = (values**2 - sum(t * t for t in totals)) / (values - 1)
    return {
        "records": records,
        "pairwise": round(equal / pairs, 6),
        "krippendorff_alpha": round(1 - observed / expected, 6) if expected else None,
    }


def _pairs(votes: int) -> int:
    return votes * (votes - 1) // 2
