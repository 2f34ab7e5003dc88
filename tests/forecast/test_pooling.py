"""The lower end of pooled skill against simulated runs whose true skill is known exactly; blocks by brute force."""

from __future__ import annotations

from functools import reduce
from itertools import combinations

import numpy as np
import pytest

from driftline.forecast.backtest import Scores, forecasts, pool, score
from driftline.forecast.extrapolators import methods
from driftline.forecast.observations import Observations
from driftline.forecast.pooling import blocks, over_cutoffs
from driftline.linearity import null
from driftline.linearity.persistence import drift_covariance
from driftline.linearity.statistics import gram_of_increments

TWO_POINT = methods(beta1=0.0)["two-point"]


def observed(increments: np.ndarray, steps: np.ndarray) -> Observations:
    return Observations(steps, steps.astype(float), 0.0, {"w": gram_of_increments(increments)})


def pooled_and_true(
    covariance: np.ndarray, steps: np.ndarray, dimension: int, rng: np.random.Generator
) -> list[tuple[float, float]]:
    """Lower end and true skill of every horizon: the truth is that of the expected squared errors, E bᵀ G b."""
    run = observed(null.simulated_increments(covariance, dimension, 1, rng)[0], steps)
    scores = reduce(Scores.__add__, score(run, TWO_POINT).values())
    expected = reduce(Scores.__add__, score(observed(covariance, steps), TWO_POINT).values())
    lag = expected.target - expected.cutoff
    found = []
    for one in pool(scores, run, TWO_POINT):
        rows = lag == round(one.horizon / (steps[1] - steps[0]))
        found.append((one.low, 1 - expected.error[rows].sum() / expected.hold_error[rows].sum()))
    return found


@pytest.mark.parametrize(
    ("T", "length", "share", "dimension"), [(8, 100, 0.7, 300), (14, 100, 0.5, 300), (14, 400, 0.5, 30)]
)
def test_the_lower_end_lies_above_the_true_skill_in_few_runs(
    T: int, length: float, share: float, dimension: int
) -> None:
    """At every horizon, also where the drift of the run is but one draw; the jackknife over cutoffs had 20 to 30 %."""
    steps = np.arange(T) * 10
    drift = drift_covariance(steps, length)
    covariance = share * drift / drift[0, 0] + (1 - share) * np.eye(T - 1)
    runs = 60
    above = [
        [low > true for low, true in pooled_and_true(covariance, steps, dimension, np.random.default_rng([run, T]))]
        for run in range(runs)
    ]
    assert np.mean(above, axis=0).max() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)


def test_no_lower_end_without_two_forecasts_that_share_no_interval(rng: np.random.Generator) -> None:
    T = 10
    steps = np.arange(T) * 10
    run = observed(null.simulated_increments(np.eye(T - 1), 300, 1, rng)[0], steps)
    scores = reduce(Scores.__add__, score(run, TWO_POINT).values())
    for one in pool(scores, run, TWO_POINT):
        ahead = round(one.horizon / 10)
        disjoint = (T - 1 - 2) // ahead >= 2
        assert np.isfinite(one.low) == (disjoint and one.cutoffs >= 3)
        assert one.low < one.skill


def test_blocks_are_the_most_forecasts_that_share_no_interval(rng: np.random.Generator) -> None:
    for _ in range(30):
        cutoff = np.sort(rng.integers(0, 8, 6))
        target = cutoff + rng.integers(1, 4, 6)
        pairs = list(zip(cutoff, target, strict=True))
        most = max(
            n
            for n in range(1, 7)
            for some in combinations(pairs, n)
            if all(a[1] <= b[0] or b[1] <= a[0] for a, b in combinations(some, 2))
        )
        assert blocks(cutoff, target) == most


def test_the_variance_over_cutoffs_is_bartletts(rng: np.random.Generator) -> None:
    error, hold = rng.random(12), 1 + rng.random(12)
    cutoff = np.arange(2, 14)
    u = error - error.sum() / hold.sum() * hold
    lags = 4  # twice two intervals
    variance = sum(u @ u if k == 0 else 2 * (1 - k / (lags + 1)) * (u[k:] @ u[:-k]) for k in range(lags + 1))
    b = (lags + 1) / 12
    critical = 1.6449 + 2.1859 * b + 0.3142 * b**2 - 0.3427 * b**3
    found = over_cutoffs(error, hold, cutoff, cutoff + 2)
    assert found == pytest.approx(critical * np.sqrt(variance) / hold.sum())


def test_the_coefficients_are_those_that_the_scores_are_of(rng: np.random.Generator) -> None:
    steps = np.arange(8) * 10
    run = observed(null.simulated_increments(np.eye(7), 300, 1, rng)[0], steps)
    for method in methods(beta1=0.0).values():
        scores = reduce(Scores.__add__, score(run, method).values())
        a = forecasts(method, run.clock, run.total, scores.cutoff, scores.target)
        missed = a - np.eye(8)[scores.target]
        np.testing.assert_allclose(np.einsum("ft,tu,fu->f", missed, run.total, missed), scores.error, atol=1e-9)
