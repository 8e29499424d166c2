"""Statistics against known truth: simulated annotators, exact values, other people's implementations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from jobs.evaluation import statistics

PROMPTS = 200


def test_auc_equals_sklearns_with_ties() -> None:
    """The pooled AUC is that of scikit-learn, ties included."""
    rng = np.random.default_rng(0)
    chosen, rejected = rng.integers(0, 6, 300) + 1.0, rng.integers(0, 6, 300) * 1.0
    expected = roc_auc_score([1] * 300 + [0] * 300, np.concatenate([chosen, rejected]))
    assert statistics.auc(chosen, rejected) == pytest.approx(expected, abs=1e-12)


def test_resampled_auc_equals_the_auc_of_the_resampled_rows() -> None:
    """A weight of 2 on a prompt counts its rows twice: the weighted AUC is the AUC of the repeated rows."""
    chosen, rejected = np.array([1.0, 2.0, 3.0]), np.array([2.0, 0.5, 3.5])
    pool = statistics._Pool(chosen, rejected, np.array([0, 1, 1]))
    repeated = roc_auc_score([1] * 5 + [0] * 5, [1, 2, 3, 2, 3, 2, 0.5, 3.5, 0.5, 3.5])
    assert pool.auc(np.array([[1.0, 2.0]]))[0] == pytest.approx(repeated)


def test_intervals_cover_the_preference_of_simulated_annotators() -> None:
    """Annotators who prefer A with known probability: 93 to 97 % of 1,000 intervals hold the truth.

    Each prompt has its own probability (mean 0.65) and one to three annotators, so rows of a prompt are dependent.
    """
    rng, covered = np.random.default_rng(1), 0
    for simulation in range(1000):
        clusters = np.repeat(np.arange(PROMPTS), rng.integers(1, 4, PROMPTS))
        preference = rng.beta(6.5, 3.5, PROMPTS)
        outcomes = (rng.random(len(clusters)) < preference[clusters]).astype(float)
        estimate = statistics.mean_estimate(outcomes, clusters, seed=simulation)
        covered += estimate.low <= 0.65 <= estimate.high
    assert 930 <= covered <= 970


def test_auc_intervals_cover_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Normal scores 0.8 apart have a known AUC, and 93 to 97 % of 1,000 intervals hold it (fewer resamples: time)."""
    monkeypatch.setattr(statistics, "NUM_RESAMPLES", 500)
    rng, covered, truth = np.random.default_rng(2), 0, stats.norm.cdf(0.8 / np.sqrt(2))
    for simulation in range(1000):
        chosen, rejected = rng.normal(0.8, 1, PROMPTS), rng.normal(0, 1, PROMPTS)
        estimate = statistics.auc_estimate(chosen, rejected, np.arange(PROMPTS), seed=simulation)
        covered += estimate.low <= truth <= estimate.high
    assert 930 <= covered <= 970


def test_a_random_reward_model_has_auc_one_half_within_its_interval() -> None:
    """Scores without information give an AUC whose interval holds 0.5."""
    rng = np.random.default_rng(3)
    estimate = statistics.auc_estimate(rng.normal(size=400), rng.normal(size=400), np.arange(400), seed=0)
    assert estimate.low < 0.5 < estimate.high


def test_rows_of_one_prompt_widen_the_interval() -> None:
    """Ten copies of each row say no more than one: the interval stays as wide as with one row per prompt."""
    outcomes = (np.random.default_rng(4).random(PROMPTS) < 0.6).astype(float)
    once = statistics.mean_estimate(outcomes, np.arange(PROMPTS), seed=0)
    copied = statistics.mean_estimate(np.repeat(outcomes, 10), np.repeat(np.arange(PROMPTS), 10), seed=0)
    assert (copied.value, copied.low, copied.high) == pytest.approx((once.value, once.low, once.high))
    assert (copied.n, copied.prompts) == (2000, 200)


def test_the_same_seed_gives_the_same_interval() -> None:
    """Intervals are deterministic under a seed and move with another one."""
    values = np.random.default_rng(5).random(PROMPTS)
    first, again, other = (statistics.mean_estimate(values, np.arange(PROMPTS), seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_chunks_of_resamples_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large data is resampled in pieces with the numbers of one piece."""
    values = np.random.default_rng(6).random(PROMPTS)
    whole = statistics.mean_estimate(values, np.arange(PROMPTS), seed=1)
    monkeypatch.setattr(statistics, "_CHUNK_CELLS", 10_000)
    assert statistics.mean_estimate(values, np.arange(PROMPTS), seed=1) == whole


@pytest.mark.parametrize(("first", "second"), [([1, 1, 0, 1, 0.5, 1], [0, 0, 1, 0, 0.5, 1]), ([1] * 9, [0] * 9)])
def test_mcnemar_is_the_exact_binomial_of_discordant_pairs(first: list[float], second: list[float]) -> None:
    """McNemar's exact p is a binomial test on the pairs that only one model wins."""
    ups = sum(a > b for a, b in zip(first, second, strict=True))
    downs = sum(a < b for a, b in zip(first, second, strict=True))
    assert statistics.mcnemar_p(first, second) == pytest.approx(stats.binomtest(ups, ups + downs).pvalue)
    assert statistics.mcnemar_p(first, first) == 1.0


def test_brier_and_calibration_of_a_perfectly_calibrated_model() -> None:
    """Outcomes drawn with probability sigmoid(margin) lie on the diagonal, and Brier is the mean p(1 - p)."""
    rng = np.random.default_rng(7)
    true_margin = rng.normal(0, 2, 50_000)
    p = 1 / (1 + np.exp(-true_margin))
    margins = np.where(rng.random(50_000) < p, true_margin, -true_margin)
    curve = statistics.calibration(margins)
    assert statistics.calibration_error(curve) < 0.01
    assert sum(point["n"] for point in curve) == 50_000
    assert statistics.brier(margins) == pytest.approx(np.mean(p * (1 - p)), abs=0.003)


def test_an_overconfident_model_is_off_the_diagonal() -> None:
    """Margins ten times too large show as calibration error."""
    margins = np.where(np.random.default_rng(8).random(2000) < 0.6, 10.0, -10.0)
    assert statistics.calibration_error(statistics.calibration(margins)) == pytest.approx(0.4, abs=0.03)


def test_length_control_removes_a_win_rate_that_is_length_alone() -> None:
    """Where length alone wins, the controlled win-rate is one half; where quality wins, it stays."""
    rng = np.random.default_rng(9)
    gaps = rng.normal(60, 60, 2000)
    by_length = (rng.random(2000) < 1 / (1 + np.exp(-3 * np.tanh(gaps / gaps.std())))).astype(float)
    by_quality = (rng.random(2000) < 0.7).astype(float)
    clusters = np.arange(2000)
    controlled = statistics.length_controlled_estimate(by_length, gaps, clusters, seed=0)
    assert by_length.mean() > 0.7
    assert controlled.low < 0.5 < controlled.high
    kept = statistics.length_controlled_estimate(by_quality, gaps, clusters, seed=0)
    assert kept.low < 0.7 < kept.high


def test_length_control_without_any_gap_is_the_plain_win_rate() -> None:
    """Equal lengths leave nothing to control, and one-sided outcomes stay finite."""
    outcomes = np.repeat([1.0, 0.0, 1.0, 1.0], 25)
    estimate = statistics.length_controlled_estimate(outcomes, np.zeros(100), np.arange(100), seed=0)
    assert estimate.value == pytest.approx(0.75, abs=1e-3)
    assert statistics.length_controlled_estimate(np.ones(50), np.ones(50), np.arange(50), seed=0).high <= 1.0


def test_a_share_of_all_is_not_certain() -> None:
    """Twenty wins of twenty leave room for a loss: the interval is Wilson's, not a point."""
    estimate = statistics.mean_estimate(np.ones(20), np.arange(20), seed=0)
    assert (estimate.low, estimate.high) == pytest.approx(statistics.wilson(20, 20))
    assert 0.8 < estimate.low < 0.9


def test_one_prompt_concludes_nothing() -> None:
    """A single prompt has no interval, and no data has no number."""
    assert not statistics.mean_estimate([1.0, 1.0], np.array([0, 0]), seed=0).excludes(0.5)
    assert np.isnan(statistics.mean_estimate([], np.array([], dtype=np.int64), seed=0).value)


def test_kappa_and_rank_correlation() -> None:
    """Cohen's kappa is 1 in agreement and 0 at chance; Spearman's rho is scipy's."""
    assert statistics.cohen_kappa([1, 0, 1, 0], [1, 0, 1, 0]) == 1
    assert statistics.cohen_kappa([1, 1, 0, 0], [1, 0, 1, 0]) == 0
    rng = np.random.default_rng(10)
    a, b = rng.integers(0, 9, 100), rng.integers(0, 9, 100)
    assert statistics.spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert statistics.spearman([1, 1], [1, 2]) == 0


def test_wilson_matches_scipy() -> None:
    """Wilson's interval is scipy's."""
    expected = stats.binomtest(7, 20).proportion_ci(method="wilson")
    assert statistics.wilson(7, 20) == pytest.approx((expected.low, expected.high))
    assert statistics.wilson(0, 0) == (0.0, 1.0)
