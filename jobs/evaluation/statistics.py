"""Estimates and their 95 % intervals, by bootstrap over prompts: rows of one prompt are not independent.

Shapes: n rows (pairs), k prompts, b resamples. Everything is numpy, vectorised over resamples, and the same numbers
come out under the same seed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEVEL = 0.95
NUM_RESAMPLES = 2000
_CHUNK_CELLS = 4_000_000
"""Weights held at once, in cells of resamples x prompts: 32 MB, whatever the size of the data."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A number with its 95 % interval; `n` rows over `prompts` prompts."""

    value: float
    low: float
    high: float
    n: int
    prompts: int

    def excludes(self, number: float) -> bool:
        """Tell whether the whole interval lies on one side of `number`."""
        return bool(self.low > number or self.high < number)

    def as_dict(self) -> dict[str, Any]:
        """Return it JSON-ready, rounded to what the resampling can tell."""
        return {
            "value": round(self.value, 6),
            "low": round(self.low, 6),
            "high": round(self.high, 6),
            "n": self.n,
            "prompts": self.prompts,
        }


def clusters_of(prompts: Sequence[Hashable]) -> Ints:
    """Number the prompts 0..k-1 by first appearance: rows with equal prompts get equal numbers."""
    seen: dict[Hashable, int] = {}
    return np.fromiter((seen.setdefault(prompt, len(seen)) for prompt in prompts), dtype=np.int64, count=len(prompts))


def wins(margins: ArrayLike) -> Floats:
    """Return 1 for a positive margin, 0 for a negative one, 0.5 for a tie."""
    return 0.5 * (np.sign(np.asarray(margins, dtype=np.float64)) + 1.0)


def auc(chosen: ArrayLike, rejected: ArrayLike) -> float:
    """Return the area under the ROC curve of all chosen (1) against all rejected (0) scores, pooled, ties half."""
    rows = len(np.asarray(chosen))
    return float(_Pool(chosen, rejected, np.arange(rows)).auc(np.ones((1, rows)))[0])


def auc_estimate(chosen: ArrayLike, rejected: ArrayLike, clusters: Ints, *, seed: int) -> Estimate:
    """Estimate the pooled AUC, resampling prompts."""
    pool = _Pool(chosen, rejected, clusters)
    return _estimate(pool.auc, clusters, seed)


def mean_estimate(values: ArrayLike, clusters: Ints, *, seed: int) -> Estimate:
    """Estimate a mean over rows (a win-rate, a paired difference of win-rates), resampling prompts."""
    values_n = np.asarray(values, dtype=np.float64)
    k = int(clusters.max()) + 1 if len(clusters) else 0
    sums_k = np.bincount(clusters, weights=values_n, minlength=k)
    rows_k = np.bincount(clusters, minlength=k).astype(np.float64)

    def weighted(weights_bk: Floats) -> Floats:
        return np.asarray((weights_bk @ sums_k) / (weights_bk @ rows_k))

    estimate = _estimate(weighted, clusters, seed)
    if k > 1 and (values_n == values_n[0]).all() and values_n[0] in (0.0, 1.0):
        # Every resample of an all-or-nothing share is the same; Wilson's interval knows that the next may differ.
        low, high = wilson(k * values_n[0], k)
        estimate = replace(estimate, low=low, high=high)
    return estimate


def length_controlled_estimate(outcomes: ArrayLike, length_gaps: ArrayLike, clusters: Ints, *, seed: int) -> Estimate:
    """Estimate the win-rate that would remain at equal lengths.

    As AlpacaEval 2 does for one pair of models: a logistic regression of the outcome on tanh(length gap / its
    standard deviation); the intercept alone is the win-rate without the length term. A weak ridge keeps a perfectly
    separated sample finite.
    """
    outcomes_n = np.asarray(outcomes, dtype=np.float64)
    gaps_n = np.asarray(length_gaps, dtype=np.float64)
    spread = float(gaps_n.std())
    feature_n = np.tanh(gaps_n / spread) if spread > 0 else np.zeros_like(gaps_n)

    def weighted(weights_bk: Floats) -> Floats:
        return _logistic_intercept(outcomes_n, feature_n, weights_bk[:, clusters])

    return _estimate(weighted, clusters, seed)


def mcnemar_p(first: ArrayLike, second: ArrayLike) -> float:
    """Return the exact two-sided p of McNemar's test: do two models win on different pairs by chance alone?"""
    gap_n = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return sign_p(gap_n)


def sign_p(margins: ArrayLike) -> float:
    """Return the exact two-sided p of the sign test on margins; ties say nothing and are left out."""
    margins_n = np.asarray(margins, dtype=np.float64)
    up, down = int((margins_n > 0).sum()), int((margins_n < 0).sum())
    return 1.0 if up + down == 0 else float(stats.binomtest(up, up + down, 0.5).pvalue)


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Return the rank correlation; 0 where one side does not vary."""
    ranks = [stats.rankdata(np.asarray(values, dtype=np.float64)) for values in (first, second)]
    if any(np.ptp(rank) == 0 for rank in ranks) or len(ranks[0]) < 2:
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """Return how much two judges agree beyond chance; 1 is complete, 0 is chance."""
    observed = float(np.mean([a == b for a, b in zip(first, second, strict=True)]))
    chance = sum(
        (list(first).count(label) / len(first)) * (list(second).count(label) / len(second)) for label in set(first)
    )
    return 1.0 if chance == 1 else (observed - chance) / (1 - chance)


def brier(margins: ArrayLike) -> float:
    """Return the mean squared error of sigmoid(margin) as probability that people chose the chosen answer."""
    return float(np.mean((1.0 - _sigmoid(np.asarray(margins, dtype=np.float64))) ** 2))


def calibration(margins: ArrayLike, bins: int = 10) -> list[dict[str, float]]:
    """Return a curve of confidence against accuracy, in bins of equal count.

    Confidence is sigmoid(|margin|): how sure the model is of the answer it puts first. Ties count half.
    """
    margins_n = np.asarray(margins, dtype=np.float64)
    order = np.argsort(np.abs(margins_n), kind="stable")
    curve = []
    for rows in np.array_split(order, min(bins, len(order))) if len(order) else []:
        correct = float(wins(margins_n[rows]).sum())
        low, high = wilson(correct, len(rows))
        confidence = float(_sigmoid(np.abs(margins_n[rows])).mean())
        curve.append(
            {"confidence": confidence, "accuracy": correct / len(rows), "low": low, "high": high, "n": len(rows)}
        )
    return curve


def calibration_error(curve: list[dict[str, float]]) -> float:
    """Return the expected calibration error: mean |confidence - accuracy| over a curve, weighted by rows."""
    total = sum(point["n"] for point in curve)
    return sum(point["n"] * abs(point["confidence"] - point["accuracy"]) for point in curve) / total if total else 0.0


def wilson(successes: float, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share, for small groups where resampling has nothing to resample."""
    if n == 0:
        return 0.0, 1.0
    z = float(stats.norm.ppf(0.5 + LEVEL / 2))
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def _sigmoid(values: Floats) -> Floats:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * values)))


class _Pool:
    """Scores of both sides sorted once, so that a resample only has to weigh them."""

    def __init__(self, chosen: ArrayLike, rejected: ArrayLike, clusters: Ints) -> None:
        scores = np.concatenate([np.asarray(chosen, dtype=np.float64), np.asarray(rejected, dtype=np.float64)])
        rows = len(scores) // 2
        order = np.argsort(scores, kind="stable")
        self.clusters_2n = np.concatenate([clusters, clusters])[order]
        self.positive_2n = (order < rows).astype(np.float64)
        _, self.starts = np.unique(scores[order], return_index=True)

    def auc(self, weights_bk: Floats) -> Floats:
        """Return the weighted AUC of each resample: P(chosen above rejected) + half P(equal)."""
        weights_b2n = weights_bk[:, self.clusters_2n]
        positive = np.add.reduceat(weights_b2n * self.positive_2n, self.starts, axis=1)
        negative = np.add.reduceat(weights_b2n * (1 - self.positive_2n), self.starts, axis=1)
        below = np.cumsum(negative, axis=1) - 0.5 * negative
        return np.asarray((positive * below).sum(axis=1) / (positive.sum(axis=1) * negative.sum(axis=1)))


def _estimate(statistic: Callable[[Floats], Floats], clusters: Ints, seed: int) -> Estimate:
    """Return the statistic on the data and its percentile interval over resampled prompts."""
    k = int(clusters.max()) + 1 if len(clusters) else 0
    if k == 0:
        return Estimate(value=float("nan"), low=float("nan"), high=float("nan"), n=0, prompts=0)
    value = float(statistic(np.ones((1, k)))[0])
    if k == 1:  # one prompt says nothing about others: no interval, and nothing may be concluded
        return Estimate(value=value, low=float("-inf"), high=float("inf"), n=len(clusters), prompts=1)
    samples = np.concatenate(
        [statistic(weights) for weights in _resamples(k, seed, cells_per_prompt=len(clusters) / k)]
    )
    tail = _expanded_tail(k)
    low, high = np.quantile(samples, [tail, 1 - tail])
    return Estimate(value=value, low=float(low), high=float(high), n=len(clusters), prompts=k)


def _resamples(k: int, seed: int, *, cells_per_prompt: float) -> Iterator[Floats]:
    """Yield how often each of k prompts is drawn in each resample, a chunk of resamples at a time."""
    rng = np.random.default_rng(seed)
    chunk = max(1, min(NUM_RESAMPLES, int(_CHUNK_CELLS / (k * max(1.0, 2 * cells_per_prompt)))))
    for start in range(0, NUM_RESAMPLES, chunk):
        size = min(chunk, NUM_RESAMPLES - start)
        drawn = rng.integers(k, size=(size, k)) + k * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * k).reshape(size, k).astype(np.float64)


def _expanded_tail(k: int) -> float:
    """Return the tail that makes a percentile interval as wide as it should be.

    Plain percentiles are a factor sqrt((k-1)/k) and a t quantile too narrow (Hesterberg 2015, The American
    Statistician 69:371): with 20 prompts they cover 92 %, with this tail 95 %.
    """
    t = stats.t.ppf(0.5 - LEVEL / 2, k - 1)
    return float(stats.norm.cdf(np.sqrt(k / (k - 1)) * t))


def _logistic_intercept(outcomes_n: Floats, feature_n: Floats, weights_bn: Floats, ridge: float = 1e-2) -> Floats:
    """Fit outcome ~ sigmoid(a + c * feature) per resample by Newton's method; return sigmoid(a)."""
    a = np.zeros(len(weights_bn))
    c = np.zeros(len(weights_bn))
    for _ in range(30):
        p_bn = _sigmoid(a[:, None] + c[:, None] * feature_n)
        error_bn = weights_bn * (p_bn - outcomes_n)
        curve_bn = weights_bn * p_bn * (1 - p_bn)
        grad_a, grad_c = error_bn.sum(axis=1) + ridge * a, (error_bn * feature_n).sum(axis=1) + ridge * c
        haa = curve_bn.sum(axis=1) + ridge
        hac = (curve_bn * feature_n).sum(axis=1)
        hcc = (curve_bn * feature_n**2).sum(axis=1) + ridge
        det = haa * hcc - hac**2
        step_a, step_c = (hcc * grad_a - hac * grad_c) / det, (haa * grad_c - hac * grad_a) / det
        a, c = a - np.clip(step_a, -2, 2), c - np.clip(step_c, -2, 2)
        if max(np.abs(step_a).max(), np.abs(step_c).max()) < 1e-7:
            break
    return _sigmoid(a)
