"""Cards and findings on data whose truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jobs.contract.splits import Split
from jobs.evaluation import statistics
from jobs.evaluation.generations import Generations, generation_card
from jobs.evaluation.pairs import TestSet
from jobs.evaluation.policy import PairLogps, policy_card
from jobs.evaluation.reward import most_disputed, reward_card
from jobs.evaluation.statistics import Floats
from jobs.evaluation.verdict import _reward_findings


def held_out(count: int, *, longer_wins: float, seed: int = 0) -> TestSet:
    """Pairs of answers of random lengths, the longer one chosen with a given probability."""
    rng = np.random.default_rng(seed)
    rows, meta = [], []
    for i in range(count):
        short, long = sorted(rng.choice(np.arange(10, 400), 2, replace=False).tolist())
        chosen, rejected = (long, short) if rng.random() < longer_wins else (short, long)
        rows.append({"prompt": f"prompt {i}", "chosen": "c" * chosen, "rejected": "r" * rejected})
        meta.append(
            {
                "id": f"r{i}",
                "agreement": [1.0, 2 / 3][i % 2],
                "votes": {"a": 3 - i % 2, "b": i % 2, "tie": 0},
                "chosen_first": i % 4 == 0,
                "metadata": {"kind": "howto" if i % 3 else "chat"},
            }
        )
    return TestSet.of(Split(rows=rows, meta=meta), "test.jsonl")


def lengths(test: TestSet) -> tuple[Floats, Floats]:
    """Return the lengths of both answers: the scores of a model that knows length alone."""
    return tuple(np.array([float(len(row[side])) for row in test.rows]) for side in ("chosen", "rejected"))  # type: ignore[return-value]


def codes(card: dict[str, Any]) -> set[str]:
    """Return the codes of the findings about a reward card."""
    return {code for _, code, _ in _reward_findings(card)}


def test_a_model_that_learnt_length_is_called_out_though_it_is_mostly_right() -> None:
    """Where the longer answer wins 85 %, length alone gives that accuracy, and the report says what it is."""
    test = held_out(400, longer_wins=0.85)
    chosen, rejected = lengths(test)
    card = reward_card(test, chosen / 100, rejected / 100, seed=0)
    assert card["accuracy"]["value"] > 0.8
    assert card["length"]["learnt_only_length"]
    assert card["length"]["shorter_is_better"]["value"] == 0
    assert "learnt_only_length" in codes(card)


def test_a_model_with_noise_on_length_is_called_out_too() -> None:
    """A little noise beside length hides nothing."""
    test = held_out(400, longer_wins=0.85)
    rng = np.random.default_rng(1)
    chosen, rejected = (scores / 100 + rng.normal(0, 0.1, 400) for scores in lengths(test))
    assert "learnt_only_length" in codes(reward_card(test, chosen, rejected, seed=0))


def test_a_model_that_knows_more_than_length_is_not_called_out() -> None:
    """On the same data a model that is right on short winners too gets no such finding."""
    test = held_out(400, longer_wins=0.85)
    rng = np.random.default_rng(1)
    card = reward_card(test, rng.normal(3, 1, 400), rng.normal(0, 1, 400), seed=0)
    assert not card["length"]["learnt_only_length"]
    assert codes(card) & {"learnt_only_length", "chance", "inverted"} == set()


def test_a_random_model_is_called_a_guess() -> None:
    """Scores without information: the AUC's interval holds 0.5 and the finding says so."""
    rng = np.random.default_rng(2)
    card = reward_card(held_out(400, longer_wins=0.5), rng.normal(size=400), rng.normal(size=400), seed=0)
    assert card["auc"]["low"] < 0.5 < card["auc"]["high"]
    assert "chance" in codes(card)


def test_slices_and_baselines_count_every_pair() -> None:
    """Groups by agreement, field and length add up to all pairs; the baselines are those of the data."""
    test = held_out(300, longer_wins=0.7)
    rng = np.random.default_rng(3)
    card = reward_card(test, rng.normal(1, 1, 300), rng.normal(size=300), seed=0, slice_by=["kind"])
    for slices in (card["by_agreement"], card["by_field"]["kind"], card["by_length_gap"]):
        assert sum(part["accuracy"]["n"] for part in slices) == 300
    assert {part["value"] for part in card["by_agreement"]} == {"100% of 3", "67% of 3"}
    assert card["baselines"]["first_option_wins"]["value"] == pytest.approx(0.25)
    assert card["baselines"]["longer_wins"]["value"] == pytest.approx(np.mean(test.length_gaps > 0))


def test_the_most_disputed_pairs_come_first() -> None:
    """The export holds the pairs where the model is surest of the opposite, and no pair it agrees on."""
    test = held_out(50, longer_wins=0.5)
    margins = np.linspace(-5, 5, 50)
    disputed = most_disputed(test, margins, np.zeros(50), 10)
    assert [pair["row"] for pair in disputed] == list(range(10))
    assert disputed[0]["margin"] == -5
    assert len(most_disputed(test, margins, np.zeros(50), 40)) == 25


def logps(margin: Floats) -> PairLogps:
    """Answers of ten tokens whose log-probabilities differ by a margin per token."""
    tokens = np.full(len(margin), 10.0)
    return PairLogps(
        chosen=10 * margin - 20, rejected=np.full(len(margin), -20.0), chosen_tokens=tokens, rejected_tokens=tokens
    )


def test_a_known_gain_is_found_and_noise_is_not() -> None:
    """A policy that turns 15 % of the pairs its way is better; one that shuffles as many both ways is not."""
    test = held_out(400, longer_wins=0.5)
    rng = np.random.default_rng(4)
    reference = rng.normal(0.1, 1, 400)
    better, shuffled = reference.copy(), reference.copy()
    lost = np.flatnonzero(reference < 0)[:60]
    better[lost] = 0.5
    shuffled[lost[:30]] = 0.5
    shuffled[np.flatnonzero(reference > 0)[:30]] = -0.5

    def card(policy: Floats, other: Floats) -> dict[str, Any]:
        rates: dict[str, Any] = policy_card(test, logps(policy), logps(other), beta=0.1, seed=0)["by_mean"]
        return rates

    assert card(better, reference)["gain"]["value"] == pytest.approx(0.15)
    assert card(better, reference)["conclusion"] == "better"
    assert card(reference, better)["conclusion"] == "worse"
    assert card(shuffled, reference)["conclusion"] == "no difference"


def test_models_that_differ_by_sampling_seed_alone_show_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two samplers of the same distribution: no difference in at least 95 % of 200 simulations."""
    monkeypatch.setattr(statistics, "NUM_RESAMPLES", 500)
    rng, none = np.random.default_rng(5), 0
    for simulation in range(200):
        quality = rng.normal(size=(2, 200)) + rng.normal(size=200)
        outcomes: list[float | None] = [float(a > b) for a, b in quality.T]
        texts = ["x" * int(n) for n in rng.integers(10, 60, 200)]
        generations = Generations(
            rows=list(range(200)), prompts=[""] * 200, policy=texts, reference=texts[::-1], policy_ids=[[1]] * 200,
            policy_logps=np.zeros(200), reference_logps=np.zeros(200),
            finished={"policy": [True] * 200, "reference": [True] * 200},
        )  # fmt: skip
        none += generation_card(generations, outcomes, seed=simulation)["conclusion"] == "no difference"
    assert none >= 190
