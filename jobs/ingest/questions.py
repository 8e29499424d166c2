"""What an annotator's answer says about two or more responses: label, rating and ranking questions."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobs.ingest.reasons import TIE, DropError

_TIE_WORDS = frozenset(
    (
        "tie", "ties", "tied", "equal", "equally", "same", "both", "neither", "none", "draw", "no_preference",
        "no_difference", "equally_good", "equally_bad", "equally_good_bad", "both_good", "both_bad", "both_equal",
        "both_are_equal", "they_are_equal", "about_the_same",
    )
)  # fmt: skip
_FIRST, _SECOND = frozenset(("a", "1", "first", "left", "one")), frozenset(("b", "2", "second", "right", "two"))
_FILLER = re.compile(
    r"^(the_)?(response|answer|option|completion|output|candidate|generation|model|reply|prefer|choose)_"
)
_PRAISE = re.compile(r"_(is_|was_)?(much_|slightly_|clearly_)?(better|preferred|best|wins|response|answer|option)$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """The question that decides, and how its answers are read."""

    kind: str
    """label, choice (0, 1 or 2), ratings (one question for each response), ranking, or correction."""
    names: tuple[str, ...]
    """Name of the question; for ratings one name for each response, in their order."""
    labels: tuple[tuple[str, str], ...] = ()
    """--label-map: label -> a, b, tie, drop or the name of a response field."""
    codes: tuple[Any, ...] | None = field(default=None)
    """Names behind integer labels, from the Arrow schema."""


def normalised(text: str) -> str:
    """Reduce a name or label to lower-case words joined by _."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def label_index(label: Any, responses: Sequence[str]) -> int | None:
    """Return which response a label names, `TIE`, or None when that is not certain."""
    if not isinstance(label, str):
        return None
    if label in responses:
        return responses.index(label)
    word = normalised(label)
    names = [normalised(name) for name in responses]
    for candidate in (word, _PRAISE.sub("", word)):
        if candidate in names:
            return names.index(candidate)
    if word in _TIE_WORDS:
        return TIE
    bare = _FILLER.sub("", _PRAISE.sub("", word))
    tails = [re.sub(r"^.*_", "", name) for name in names]
    if len(set(tails)) == len(tails) and bare in tails:
        return tails.index(bare)
    if len(responses) == 2:
        return 0 if bare in _FIRST else 1 if bare in _SECOND else None
    return None


def vote_reader(question: Question, responses: Sequence[str], *, best_first: bool = False) -> Callable[[Any], Any]:
    """Return the function from an answer's value to a vote.

    A vote is the index of the response preferred, `TIE`, None for an answer left incomplete, or, where more than two
    responses are compared or ratings are given, a tuple of scores in the responses' order, higher being better. The
    function raises `DropError("unknown_label")` or `DropError("malformed_responses")`.
    """
    if question.kind == "label":
        return _label_reader(question, responses)
    if question.kind == "choice":
        return _choice
    if question.kind == "ratings":
        return _ratings
    return _ranking_reader(responses, best_first)


def _label_reader(question: Question, responses: Sequence[str]) -> Callable[[Any], Any]:
    known: dict[Any, int] = {}
    words = {"tie": TIE, "a": 0, "b": 1, "first": 0, "second": 1}
    mapped = dict(question.labels)

    def read(value: Any) -> Any:
        try:
            return known[value]
        except (KeyError, TypeError):
            pass
        if value is None:
            return None
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise DropError("malformed_responses")
        label = str(value)
        if label in mapped:
            target = mapped[label]
            if target == "drop":
                raise DropError("dropped_by_annotators")
            index = responses.index(target) if target in responses else words[target]
        else:
            found = label_index(value, responses)
            if found is None:
                raise DropError("unknown_label")
            index = found
        known[value] = index
        return index

    return read


def _choice(value: Any) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise DropError("malformed_responses")
    if value not in (0, 1, 2):
        raise DropError("unknown_label")
    return int(value) - 1 if value else TIE


def _ratings(value: Any) -> tuple[float, ...] | None:
    if value is None or None in value:
        return None
    if any(not isinstance(v, int | float) or isinstance(v, bool) for v in value):
        raise DropError("malformed_responses")
    return tuple(value)


def _ranking_reader(responses: Sequence[str], best_first: bool) -> Callable[[Any], Any]:
    position = {name: i for i, name in enumerate(responses)}

    def read(value: Any) -> Any:
        if value is None:
            return None
        names, ranks = ranking_items(value, best_first)
        scores: list[Any] = [None] * len(position)
        for name, rank in zip(names, ranks, strict=True):
            if name not in position:
                raise DropError("unknown_label")
            if rank is not None and (not isinstance(rank, int | float) or isinstance(rank, bool)):
                raise DropError("malformed_responses")
            scores[position[name]] = None if rank is None else -rank
        return None if None in scores else tuple(scores)

    return read


def ranking_items(value: Any, best_first: bool) -> tuple[list[Any], list[Any]]:
    """Return names and ranks of a ranking in any of its spellings; a plain list has ranks only if `best_first`."""
    if isinstance(value, dict):
        names, ranks = value.get("value"), value.get("rank")
    elif isinstance(value, list) and all(isinstance(item, dict) for item in value):
        names, ranks = [item.get("value") for item in value], [item.get("rank") for item in value]
    elif isinstance(value, list) and best_first:
        names, ranks = value, list(range(1, len(value) + 1))
    else:
        raise DropError("malformed_responses")
    if not isinstance(names, list) or not isinstance(ranks, list) or len(names) != len(ranks):
        raise DropError("malformed_responses")
    if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise DropError("malformed_responses")
    return names, ranks
