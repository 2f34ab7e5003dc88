"""What is said of forecasts: the lower end of their skill."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial, reduce

import numpy as np

from calibrating import walks
from calibrating.row import Row
from calibrating.side import each
from driftline.forecast.backtest import Scores, pool, score
from driftline.forecast.extrapolators import methods
from driftline.forecast.observations import Observations
from driftline.linearity.persistence import drift_covariance
from driftline.linearity.statistics import gram_of_increments

BETA1 = 0.9
_TWO_POINT = methods(beta1=BETA1)["two-point"]
_SKILL = ((8, 100, 0.7, 300), (12, 100, 0.7, 300), (20, 100, 0.5, 300), (20, 300, 0.5, 30), (30, 100, 0.5, 300))


def turning(steps: np.ndarray, length: float, share: float) -> np.ndarray:
    """Covariance of increments: a drift that turns over `length` steps, with that share of the first interval's variance."""
    drift, walk = drift_covariance(steps, length), walks.walk(steps, BETA1)
    return share * drift / drift[0, 0] + (1 - share) * walk / walk[0, 0]


def observed(cov: np.ndarray, steps: np.ndarray, directions: int, seed: int) -> Observations:
    return seen(walks.increments(cov, directions, np.random.default_rng([seed, len(steps), directions])), steps)


def above(T: int, length: float, share: float, directions: int, runs: int) -> dict[int, int]:
    """By intervals ahead: in how many runs the lower end lies above the true skill, that of the expected squared errors."""
    steps = np.arange(T) * 10
    cov = turning(steps, length, share)
    sure = Observations(steps, steps.astype(float), BETA1, {"weights": gram_of_increments(cov)})
    expected = reduce(Scores.__add__, score(sure, _TWO_POINT).values())
    found: dict[int, int] = {}
    for lows in each(partial(_lows, cov, steps, directions), runs):
        for ahead, low in lows.items():
            rows = expected.target - expected.cutoff == ahead
            true = 1 - expected.error[rows].sum() / expected.hold_error[rows].sum()
            found[ahead] = found.get(ahead, 0) + int(low > true)
    return found


def _lows(cov: np.ndarray, steps: np.ndarray, directions: int, seed: int) -> dict[int, float]:
    """By intervals ahead: the lower end, where one run has one."""
    run = observed(cov, steps, directions, seed)
    pooled = pool(reduce(Scores.__add__, score(run, _TWO_POINT).values()), run, _TWO_POINT)
    return {round(one.horizon / 10): one.low for one in pooled if np.isfinite(one.low)}


def seen(increments: np.ndarray, steps: np.ndarray) -> Observations:
    return Observations(steps, steps.astype(float), BETA1, {"weights": gram_of_increments(increments)})


def rows(runs: int) -> Iterator[Row]:
    for T, length, share, directions in _SKILL:
        hits = above(T, length, share, directions, runs)
        worst = max(hits, key=lambda ahead: hits[ahead])
        what = f"lower end of skill above the true one: {T} checkpoints 10 apart, drift over {length} steps, {directions} directions"
        yield Row(
            what, "25 to 39 %", hits[worst], runs, at_most=0.05, note=f"the worst horizon: {worst} of {max(hits)}"
        )
