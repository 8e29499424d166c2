"""Why a record is not in the splits: every reason has one name, and this is the list of them."""

from __future__ import annotations

INVALID = (
    "invalid_json",
    "not_an_object",
    "invalid_unicode",
    "wrong_type",
    "malformed_responses",
    "unknown_label",
    "missing_prompt",
    "missing_response",
    "prompt_mismatch",
    "identical_responses",
    "too_short",
    "too_long",
)
"""The record itself is at fault: these, and only these, lower the validity."""

OPEN = (
    "no_response",
    "no_submitted_response",
    "tie",
    "no_majority",
    "no_unique_best_worst",
    "below_min_annotators",
    "below_min_agreement",
    "below_min_rating_gap",
    "below_min_suggestion_score",
    "dropped_by_annotators",
)
"""The annotators left it open."""

ACROSS = ("duplicate", "conflicting_duplicate")
"""Found only when all records are seen together."""

REASONS = (*INVALID, *OPEN, *ACROSS)

TIE = -1
"""The vote, or verdict, that neither response is better."""


class DropError(Exception):
    """One record cannot become a pair; carries the name of the reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
