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


_MOST_PATTERNS = 100_000


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
            vote_reader(plan.question, plan.response_fields, best_first=plan.best_first)
            if plan.question and plan.question.kind != "correction"
            else None
        )
        self.verdicts: dict[Any, Verdict] = {}
        self.tallies: Counter[tuple[int, int, int]] = Counter()
        self.who: list[Any] = []
        self.how: list[str] = []
        """Annotator and status of every answer, counted together at the end of the unit."""

    def pairs(self, row: Mapping[str, Any]) -> list[Pair]:
        """Return the pairs of a record; raises `DropError` with the first reason that applies."""
        if not isinstance(row, dict):
            raise DropError("not_an_object")
        prompt, responses = self.texts.read(self.view.fields(row))
        if self.plan.variant == "pairs":
            return [self._ready_pair(row, prompt, responses)]
        if self.plan.question is not None and self.plan.question.kind == "correction":
            return self._corrected(row, prompt, responses[0])
        if len(responses) != 2:
            if len({canonical(response) for response in responses}) == 1:
                raise DropError("identical_responses")
            return self._many(row, prompt, responses)
        first, second = responses
        if canonical(first) == canonical(second):
            raise DropError("identical_responses")
        verdict, source = self._verdict(row)
        source = "file" if self.plan.variant == "generations" else source
        if verdict.reason is not None:
            raise DropError(verdict.reason)
        agreement = verdict.agreement if source == "people" else None
        if verdict.winner:
            return [Pair(prompt, second, first, verdict.votes, agreement, False, source)]
        return [Pair(prompt, first, second, verdict.votes, agreement, True, source)]

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

    def _verdict(self, row: Mapping[str, Any]) -> tuple[Verdict, str]:
        if self.plan.question is None:
            raise DropError("no_response")
        users, statuses, values = self._answers(row)
        reason = "no_response"
        if values:
            self._check_users(users, statuses, values)
            verdict = self.judged(statuses, values)
            self.tallies[verdict.tally] += 1
            if verdict.reason != "no_submitted_response":
                return verdict, "people"
            reason = "no_submitted_response"
        if not self.plan.use_suggestions:
            raise DropError(reason)
        return self._suggested(row, reason), "suggestion"

    def _answers(self, row: Mapping[str, Any]) -> Answers:
        question = self.plan.question
        assert question is not None
        if question.kind == "ratings":
            return self._joined_ratings(row, question.names)
        return self.view.answers(row, question.names[0])

    def _check_users(self, users: list[Any], statuses: list[Any], values: list[Any]) -> None:
        """Count who answered; each annotator answers once, with a known status."""
        self.check_statuses(statuses, values)
        try:
            if len(users) != len(values) or len(set(users)) != len(users):
                raise DropError("malformed_responses")
        except TypeError:
            raise DropError("malformed_responses") from None
        self.who += users
        self.how += statuses

    def check_statuses(self, statuses: list[Any], values: list[Any]) -> None:
        """Refuse a status for nothing, an answer without one, and a status that Argilla does not know."""
        try:
            if len(statuses) != len(values) or not STATUSES.issuperset(statuses):
                raise DropError("malformed_responses")
        except TypeError:
            raise DropError("malformed_responses") from None

    def judged(self, statuses: list[Any], values: list[Any]) -> Verdict:
        """Return the verdict; the few patterns of answers that occur are judged once."""
        try:
            key = (tuple(statuses), tuple(values))
            verdict = self.verdicts.get(key)
        except TypeError:  # rankings are lists of objects
            return judge(statuses, self._votes(statuses, values), self.plan.policy)
        if verdict is None:
            verdict = judge(statuses, self._votes(statuses, values), self.plan.policy)
            if len(self.verdicts) < _MOST_PATTERNS:
                self.verdicts[key] = verdict
        return verdict

    def _votes(self, statuses: list[Any], values: list[Any]) -> list[Any]:
        """Read the answers that count; what stands in a draft is nobody's business."""
        assert self.read_vote is not None
        return [
            self.read_vote(value) if status == "submitted" else None
            for status, value in zip(statuses, values, strict=True)
        ]

    def statuses(self) -> dict[Any, Counter[str]]:
        """Return how many answers of each status every annotator gave."""
        found: dict[Any, Counter[str]] = {}
        for (user, status), count in Counter(zip(self.who, self.how, strict=True)).items():
            found.setdefault(user, Counter())[status] = count
        return found

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

    def _corrected(self, row: Mapping[str, Any], prompt: Text, original: Text) -> list[Pair]:
        """Return one pair for each different text that annotators put in the place of the original."""
        users, statuses, values = self._answers(row)
        if not values:
            raise DropError("no_response")
        self._check_users(users, statuses, values)
        if not all(isinstance(value, str | None) for value in values):
            raise DropError("malformed_responses")
        before = original if isinstance(original, str) else original[-1]["content"]
        votes: list[int | None] = []
        for value in values:
            blank = value is None or not value.strip()
            votes.append(None if blank else TIE if value.strip() == before.strip() else 1)
        verdict = judge(statuses, votes, self.plan.policy)
        self.tallies[verdict.tally] += 1
        if verdict.reason is not None:
            raise DropError(verdict.reason)
        given = zip(statuses, votes, values, strict=True)
        texts = {value.strip(): value for status, vote, value in given if status == "submitted" and vote == 1}
        made: list[Text] = [[{"role": "assistant", "content": t}] if self.plan.chat else t for t in texts.values()]
        return [Pair(prompt, text, original, verdict.votes, verdict.agreement, None, "people") for text in made]

    def _many(self, row: Mapping[str, Any], prompt: Text, responses: Sequence[Text]) -> list[Pair]:
        """Return the pairs of a record with more than two responses, in the way that --pairs says."""
        if self.plan.question is None:
            raise DropError("no_response")
        users, statuses, values = self._answers(row)
        if not values:
            raise DropError("no_response")
        self._check_users(users, statuses, values)
        votes = self._votes(statuses, values)
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
                source = "file" if self.plan.variant == "generations" else "people"
                first = verdict.winner == 0
                made.append(Pair(prompt, chosen, rejected, verdict.votes, verdict.agreement, first, source))
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
