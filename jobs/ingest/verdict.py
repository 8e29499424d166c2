"""From votes to one verdict for a record: submitted answers only, unique plurality, nothing at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobs.ingest.reasons import TIE

STATUSES = frozenset(("submitted", "draft", "discarded"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """What the user may change about the counting."""

    min_annotators: int = 1
    min_agreement: float = 0.0
    rating_mean: bool = False
    min_rating_gap: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The outcome for two responses."""

    reason: str | None
    """Why there is no pair; None when there is a winner."""
    winner: int
    votes: tuple[int, int, int]
    """For the first response, for the second, for a tie; one vote in all where mean ratings decide."""
    tally: tuple[int, int, int]
    """The annotators' own votes."""
    agreement: float
    """Share of the votes that the winner has."""


def pair_vote(vote: Any, first: int, second: int) -> int | None:
    """Return what one annotator's vote says about two of the responses: 0, 1, `TIE`, or None for nothing."""
    if vote is None or isinstance(vote, int):
        if vote in (None, TIE):
            return vote
        return 0 if vote == first else 1 if vote == second else None
    if vote[first] == vote[second]:
        return TIE
    return 0 if vote[first] > vote[second] else 1


def judge(statuses: Sequence[str], votes: Sequence[Any], policy: Policy, first: int = 0, second: int = 1) -> Verdict:
    """Return the unique plurality among first, second and tie over the submitted, complete answers."""
    counted = [vote for status, vote in zip(statuses, votes, strict=True) if status == "submitted" and vote is not None]
    ballots = [pair_vote(vote, first, second) for vote in counted]
    tally = (ballots.count(0), ballots.count(1), ballots.count(TIE))
    total = sum(tally)
    if not total:
        return Verdict(reason="no_submitted_response", winner=TIE, votes=tally, tally=tally, agreement=0.0)
    reason, winner = _mean(counted, policy, first, second) if policy.rating_mean else _plurality(tally)
    agreement = tally[winner] / total
    if reason is None and total < policy.min_annotators:
        reason = "below_min_annotators"
    elif reason is None and agreement < policy.min_agreement:
        reason = "below_min_agreement"
    elif reason is None and policy.min_rating_gap and _gap(counted, first, second) < policy.min_rating_gap:
        reason = "below_min_rating_gap"
    mean_vote = (int(winner == 0), int(winner == 1), int(winner == TIE))
    votes_counted = mean_vote if policy.rating_mean else tally
    return Verdict(reason=reason, winner=winner, votes=votes_counted, tally=tally, agreement=round(agreement, 4))


def _plurality(tally: tuple[int, int, int]) -> tuple[str | None, int]:
    top = max(tally)
    if tally.count(top) > 1:
        return "no_majority", TIE
    if tally[2] == top:
        return "tie", TIE
    return None, tally.index(top)


def _mean(votes: Sequence[Any], policy: Policy, first: int, second: int) -> tuple[str | None, int]:
    difference = _difference(votes, first, second)
    return ("tie", TIE) if difference == 0 else (None, 0 if difference > 0 else 1)


def _difference(votes: Sequence[Any], first: int, second: int) -> float:
    scored = [vote for vote in votes if isinstance(vote, tuple)]
    return sum(vote[first] - vote[second] for vote in scored) / len(scored) if scored else 0.0


def _gap(votes: Sequence[Any], first: int, second: int) -> float:
    return abs(_difference(votes, first, second))
