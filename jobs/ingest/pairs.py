"""From one record to its pairs: texts, votes, verdict, in the order in which the reasons to drop take precedence."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.ingest.candidates import suggested_value
from jobs.ingest.plan import Plan
from jobs.ingest.questions import vote_reader
from jobs.ingest.reasons import TIE, DropError
from jobs.ingest.texts import Text, Texts, canonical
from jobs.ingest.verdict import STATUSES, Verdict, judge, pair_vote
from jobs.ingest.views import Answers


@dataclass(slots=True)
class Pair:
    """One comparison with a winner."""

    prompt: Text
    chosen: Text
    rejected: Text
    votes: tuple[int, int, int] | None
    """For the first option, the second, a tie; None for ready pairs. A suggestion or a mean rating is one vote."""
    agreement: float | None
    """Share of the annotators who preferred the winner; None where no person voted."""
    chosen_first: bool | None
    """Whether the first of the two options won; None where the file does not say which stood first."""
    source: str
    """people, suggestion, or file for ready pairs."""


def _one_vote(winner: int) -> tuple[int, int, int]:
    return int(winner == 0), int(winner == 1), int(winner == TIE)


class PairMaker:
    """Makes pairs of the records of one plan and counts who answered what."""

    def __init__(self, plan: Plan, min_suggestion_score: float = 0.0) -> None:
        self.plan = plan
        self.view = plan.view()
        self.texts = Texts(plan)
        self.min_suggestion_score = min_suggestion_score
        self.read_vote = (
            vote_reader(plan.question, plan.response_fields, best_first=plan.best_first) if plan.question else None
        )
        self.verdicts: dict[Any, Verdict] = {}
        self.tallies: Counter[tuple[int, int, int]] = Counter()
        self.statuses: dict[Any, dict[str, int]] = {}
        """Annotator -> status -> number of answers."""

    def pairs(self, row: Mapping[str, Any]) -> list[Pair]:
        """Return the pairs of a record; raises `DropError` with the first reason that applies."""
        if not isinstance(row, dict):
            raise DropError("not_an_object")
        prompt, responses = self.texts.read(self.view.fields(row))
        if self.plan.variant == "pairs":
            return [self._ready_pair(row, prompt, responses)]
        if len(responses) == 2:
            first, second = responses
            if first == second or canonical(first) == canonical(second):
                raise DropError("identical_responses")
            return [self._pair(row, prompt, first, second)]
        if len({canonical(response) for response in responses}) == 1:
            raise DropError("identical_responses")
        return self._many(row, prompt, responses)

    def _ready_pair(self, row: Mapping[str, Any], prompt: Text, responses: Sequence[Text]) -> Pair:
        chosen, rejected = responses
        if canonical(chosen) == canonical(rejected):
            raise DropError("identical_responses")
        if self.plan.tie_column and row.get(self.plan.tie_column) == "tie":
            raise DropError("tie")
        if self.plan.policy.min_rating_gap and self.plan.rating_fields:
            better, worse = (row.get(name) for name in self.plan.rating_fields)
            numbers = isinstance(better, int | float) and isinstance(worse, int | float)
            if not numbers or abs(better - worse) < self.plan.policy.min_rating_gap:  # type: ignore[operator]
                raise DropError("below_min_rating_gap")
        return Pair(prompt, chosen, rejected, None, None, None, "file")

    def _pair(self, row: Mapping[str, Any], prompt: Text, first: Text, second: Text) -> Pair:
        verdict, source = self._verdict(row)
        if verdict.reason is not None:
            raise DropError(verdict.reason)
        chosen, rejected = (second, first) if verdict.winner else (first, second)
        agreement = verdict.agreement if source == "people" else None
        return Pair(prompt, chosen, rejected, verdict.votes, agreement, verdict.winner == 0, source)

    def _verdict(self, row: Mapping[str, Any]) -> tuple[Verdict, str]:
        if self.plan.question is None:
            raise DropError("no_response")
        statuses, votes = self.ballots(row)
        reason = "no_response"
        if statuses:
            key = (tuple(statuses), tuple(votes))
            verdict = self.verdicts.get(key)
            if verdict is None:
                verdict = judge(statuses, votes, self.plan.policy)
                if len(self.verdicts) < 100_000:
                    self.verdicts[key] = verdict
            self.tallies[verdict.tally] += 1
            if verdict.reason != "no_submitted_response":
                return verdict, "people"
            reason = "no_submitted_response"
        if not self.plan.use_suggestions:
            raise DropError(reason)
        return self._suggested(row, reason), "suggestion"

    def ballots(self, row: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[Any]]:
        """Return statuses and votes of all answers, each annotator's once; checked and counted."""
        question = self.plan.question
        assert question is not None
        assert self.read_vote is not None
        if question.kind == "ratings":
            users, statuses, values = self._joined_ratings(row, question.names)
        else:
            users, statuses, values = self.view.answers(row, question.names[0])
        if not values:
            return (), ()
        if not len(users) == len(statuses) == len(values):
            raise DropError("malformed_responses")
        try:
            if len(users) > 1 and len(set(users)) != len(users):
                raise DropError("malformed_responses")
            if not STATUSES.issuperset(statuses):
                raise DropError("malformed_responses")
            for user, status in zip(users, statuses, strict=True):
                counts = self.statuses.get(user)
                if counts is None:
                    counts = self.statuses[user] = dict.fromkeys(sorted(STATUSES), 0)
                counts[status] += 1
        except TypeError:
            raise DropError("malformed_responses") from None
        read = self.read_vote
        return statuses, [read(value) for value in values]

    def _joined_ratings(self, row: Mapping[str, Any], names: tuple[str, ...]) -> Answers:
        """Join the ratings of the responses on the annotator: the lists of two questions are not aligned."""
        by_user: dict[Any, list[Any]] = {}
        statuses: dict[Any, Any] = {}
        for position, name in enumerate(names):
            users, states, values = self.view.answers(row, name)
            if not len(users) == len(states) == len(values) or len(set(map(str, users))) != len(users):
                raise DropError("malformed_responses")
            for user, status, value in zip(users, states, values, strict=True):
                by_user.setdefault(user, [None] * len(names))[position] = value
                statuses.setdefault(user, status)
        return list(by_user), [statuses[user] for user in by_user], [tuple(values) for values in by_user.values()]

    def _suggested(self, row: Mapping[str, Any], reason: str) -> Verdict:
        question = self.plan.question
        assert question is not None
        assert self.read_vote is not None
        value = suggested_value(self.view, row, question)
        vote = self.read_vote(value)
        if vote is None:
            raise DropError(reason)
        if self.min_suggestion_score:
            score = self.view.suggestion(row, question.names[0])[1]
            if not isinstance(score, int | float) or score < self.min_suggestion_score:
                raise DropError("below_min_suggestion_score")
        winner = pair_vote(vote, 0, 1)
        if winner in (None, TIE):
            raise DropError("tie")
        return Verdict(reason=None, winner=winner or 0, votes=_one_vote(winner or 0), tally=(0, 0, 0), agreement=0.0)

    def _many(self, row: Mapping[str, Any], prompt: Text, responses: Sequence[Text]) -> list[Pair]:
        """Return the pairs of a record with more than two responses, in the way that --pairs says."""
        if self.plan.question is None:
            raise DropError("no_response")
        statuses, votes = self.ballots(row)
        if not statuses:
            raise DropError("no_response")
        verdicts = {
            (i, j): judge(statuses, votes, self.plan.policy, i, j)
            for i in range(len(responses))
            for j in range(i + 1, len(responses))
        }
        reasons = {v.reason for v in verdicts.values()}
        if reasons == {"no_submitted_response"}:
            raise DropError("no_submitted_response")
        wanted = list(verdicts) if self.plan.pairs == "all" else self._by_score(statuses, votes, len(responses))
        made = []
        for i, j in wanted:
            verdict, one, other = verdicts[i, j], responses[i], responses[j]
            if verdict.reason is None and canonical(one) != canonical(other):
                chosen, rejected = (other, one) if verdict.winner else (one, other)
                made.append(
                    Pair(prompt, chosen, rejected, verdict.votes, verdict.agreement, verdict.winner == 0, "people")
                )
        if not made:
            dropped = [verdicts[pair].reason or "identical_responses" for pair in wanted]
            raise DropError(dropped[0] if len(set(dropped)) == 1 else "no_majority")
        return made

    def _by_score(self, statuses: Sequence[str], votes: Sequence[Any], count: int) -> list[tuple[int, int]]:
        totals = [0.0] * count
        for status, vote in zip(statuses, votes, strict=True):
            if status == "submitted" and vote is not None and vote != TIE:
                scores = vote if isinstance(vote, tuple) else [float(i == vote) for i in range(count)]
                totals = [total + score for total, score in zip(totals, scores, strict=True)]
        order = sorted(range(count), key=lambda i: -totals[i])
        if self.plan.pairs == "adjacent":
            steps = [(i, j) for i, j in itertools.pairwise(order) if totals[i] != totals[j]]
            if not steps:
                raise DropError("tie")
            return [(min(pair), max(pair)) for pair in steps]
        best, worst = order[0], order[-1]
        if totals.count(totals[best]) > 1 or totals.count(totals[worst]) > 1:
            raise DropError("tie" if len(set(totals)) == 1 else "no_unique_best_worst")
        return [(min(best, worst), max(best, worst))]
