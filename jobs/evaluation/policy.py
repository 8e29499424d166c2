"""The policy card: on held-out pairs, does the policy prefer what people preferred more often than its reference?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jobs.evaluation import statistics
from jobs.evaluation.pairs import TestSet
from jobs.evaluation.statistics import Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class PairLogps:
    """What one model gives the answers of each row: log-probability in nats, summed over tokens, and the tokens."""

    chosen: Floats
    rejected: Floats
    chosen_tokens: Floats
    rejected_tokens: Floats

    def mean_margin(self) -> Floats:
        """Difference of the mean log-probability per token."""
        return np.asarray(self.chosen / self.chosen_tokens - self.rejected / self.rejected_tokens)

    def sum_margin(self) -> Floats:
        """Difference of the log-probability of the whole answers."""
        return np.asarray(self.chosen - self.rejected)


def policy_card(test: TestSet, policy: PairLogps, reference: PairLogps, *, beta: float, seed: int) -> dict[str, Any]:
    """Return win-rates of both, the gain with its interval, and where the probability went."""
    rows = np.flatnonzero(np.isfinite(policy.chosen) & np.isfinite(reference.chosen))
    clusters = statistics.clusters_of(test.clusters[rows].tolist())

    def mean(values: Floats) -> dict[str, Any]:
        return statistics.mean_estimate(values[rows], clusters, seed=seed).as_dict()

    change_chosen, change_rejected = policy.chosen - reference.chosen, policy.rejected - reference.rejected
    rewards = beta * (change_chosen - change_rejected)
    return {
        "pairs": len(rows),
        "not_scored": len(test.rows) - len(rows),
        "by_mean": _win_rates(policy.mean_margin()[rows], reference.mean_margin()[rows], clusters, seed),
        "by_sum": _win_rates(policy.sum_margin()[rows], reference.sum_margin()[rows], clusters, seed),
        "implicit_reward": {
            "beta": beta,
            "margin": mean(rewards),
            "accuracy": mean(statistics.wins(rewards)),
        },
        "change_of_logp": {
            "chosen": mean(change_chosen),
            "rejected": mean(change_rejected),
            "chosen_per_token": mean(change_chosen / policy.chosen_tokens),
            "rejected_per_token": mean(change_rejected / policy.rejected_tokens),
        },
    }


def _win_rates(policy: Floats, reference: Floats, clusters: statistics.Ints, seed: int) -> dict[str, Any]:
    """Return the share of pairs each model gets right, ties half, and the paired difference."""
    wins_p, wins_r = statistics.wins(policy), statistics.wins(reference)
    gain = statistics.mean_estimate(wins_p - wins_r, clusters, seed=seed)
    p = statistics.mcnemar_p(wins_p, wins_r)
    return {
        "policy": statistics.mean_estimate(wins_p, clusters, seed=seed).as_dict(),
        "reference": statistics.mean_estimate(wins_r, clusters, seed=seed).as_dict(),
        "gain": gain.as_dict(),
        "mcnemar_p": p,
        "only_policy_right": int((wins_p > wins_r).sum()),
        "only_reference_right": int((wins_p < wins_r).sum()),
        "conclusion": conclusion(gain, p, no_effect=0.0),
    }


def conclusion(estimate: statistics.Estimate, p: float, *, no_effect: float) -> str:
    """Return better, worse or no difference: a difference must show in the interval and in the exact test.

    Either alone is wrong in about 5 % of the cases where there is none; together they are wrong in fewer.
    """
    if not estimate.excludes(no_effect) or p >= 1 - statistics.LEVEL:
        return "no difference"
    return "better" if estimate.value > no_effect else "worse"
