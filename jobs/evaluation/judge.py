"""Who compares two answers to the same prompt: here the reward model; an endpoint does in `endpoint.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jobs.evaluation.generations import Generations
from jobs.evaluation.statistics import Floats
from jobs.training.encode import PairEncoder


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """The outcome of one comparison: 1 the policy's answer, 0 the reference's, 0.5 a tie, None no verdict."""

    outcome: float | None
    detail: dict[str, Any] = field(default_factory=dict)


class RewardJudge:
    """Prefers the answer with the higher reward."""

    def __init__(self, encoder: PairEncoder, score: Callable[[list[tuple[list[int], list[int]]]], Floats]) -> None:
        self.encoder = encoder
        self.score = score

    def compare(self, generations: Generations) -> list[Judgement]:
        """Score both answers of every prompt; equal answers are a tie without asking."""
        sides = (generations.policy, generations.reference)
        encoded = [
            self.encoder.encode_answer(prompt, answer)
            for answers in sides
            for prompt, answer in zip(generations.prompts, answers, strict=True)
        ]
        scores = self.score(encoded)
        half = len(generations.prompts)
        judgements = []
        for i in range(half):
            policy, reference = float(scores[i]), float(scores[half + i])
            if sides[0][i] == sides[1][i]:
                reference = policy  # the same text: rounding in another batch position is no preference
            outcome = 0.5 if policy == reference else float(policy > reference)
            judgements.append(
                Judgement(outcome=outcome, detail={"policy_reward": policy, "reference_reward": reference})
            )
        return judgements
