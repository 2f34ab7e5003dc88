"""Back-tests: how well each method would have forecast the checkpoints that the run went on to save.

For every cutoff (at least three checkpoints seen) and every later checkpoint, from the Grams alone: with
b = a - e_target the squared error is bᵀ G b. Skill is 1 - squared error / squared error of holding the
last checkpoint seen. The recommended horizon is the furthest up to which the lower end of the skill,
pooled over cutoffs, stays above 0; it is 0 where drift is not told from chance, so that noise is never
forecast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from driftline.forecast import gaussian
from driftline.forecast.extrapolators import Method, methods
from driftline.forecast.observations import Observations
from driftline.linearity.drift import DriftTest, drift_test

Array = np.ndarray

FEWEST_SEEN = 3
_MOST_CUTOFFS = 30
_ONE_SIDED = 1.645  # standard errors below the pooled skill: its lower 95 % end


@dataclass(frozen=True)
class Score:
    """One forecast of one observed checkpoint: cutoff and target are rows; errors are squared norms."""

    method: str
    cutoff: int
    target: int
    error: float
    hold_error: float
    cosine: float  # between the forecast move and the true one

    @property
    def skill(self) -> float:
        return 1 - self.error / self.hold_error if self.hold_error > 0 else math.nan


@dataclass(frozen=True)
class Pooled:
    """Skill over all cutoffs at one horizon (clock units), with its lower end."""

    horizon: float
    skill: float
    low: float
    cutoffs: int


def score(observed: Observations, method: Method) -> list[Score]:
    """Every forecast that the run allows, in order of cutoff and target."""
    clock, T = observed.clock, observed.clock.size
    units = [gram for _, gram in observed.units(method.per if method.uses_gram else "run")]
    scores = []
    for cutoff in _cutoffs(T):
        for target in range(cutoff + 1, T):
            error = hold = along = size = 0.0
            for gram in units:
                a = method.extrapolate(clock[: cutoff + 1], gram[: cutoff + 1, : cutoff + 1], float(clock[target]))
                move = np.zeros(T)
                move[: cutoff + 1] = a
                move[cutoff] -= 1
                true = np.zeros(T)
                true[target], true[cutoff] = 1, -1
                error += (move - true) @ gram @ (move - true)
                hold += true @ gram @ true
                along += move @ gram @ true
                size += move @ gram @ move
            cosine = along / math.sqrt(size * hold) if size > 0 and hold > 0 else 0.0
            scores.append(Score(method.name, cutoff, target, float(error), float(hold), float(cosine)))
    return scores


def _cutoffs(T: int) -> list[int]:
    """Rows of the last checkpoint seen; thinned evenly in long runs."""
    rows = np.arange(FEWEST_SEEN - 1, T - 1)
    return rows[np.unique(np.linspace(0, rows.size - 1, min(rows.size, _MOST_CUTOFFS)).round().astype(int))].tolist()


def pool(scores: Sequence[Score], clock: Array) -> list[Pooled]:
    """Skill by horizon, errors summed over cutoffs; the lower end by jackknife over cutoffs.

    Horizons are rounded to multiples of the median interval. Fewer than three cutoffs have no lower end.
    """
    unit = float(np.median(np.diff(clock)))
    by_horizon: dict[int, list[Score]] = {}
    for one in scores:
        by_horizon.setdefault(round((clock[one.target] - clock[one.cutoff]) / unit), []).append(one)
    pooled = []
    for horizon, group in sorted(by_horizon.items()):
        error, hold = np.array([s.error for s in group]), np.array([s.hold_error for s in group])
        if horizon < 1 or not hold.sum() > 0:
            continue
        n, skill = len(group), 1 - error.sum() / hold.sum()
        low = -math.inf
        if n >= 3:
            without = 1 - (error.sum() - error) / (hold.sum() - hold)
            low = skill - _ONE_SIDED * math.sqrt((n - 1) / n * np.sum((without - without.mean()) ** 2))
        pooled.append(Pooled(horizon * unit, float(skill), float(low), n))
    return pooled


def recommended_horizon(pooled: Sequence[Pooled], test: DriftTest | None) -> float:
    """The furthest horizon with the lower end of the skill above 0 there and at every nearer one."""
    if test is None or not test.found:
        return 0.0
    furthest = 0.0
    for one in pooled:
        if not one.low > 0:
            break
        furthest = one.horizon
    return furthest


def calibration(observed: Observations, dimension: float, seed: int = 0) -> dict[str, float]:
    """How honest the standard errors of `blup` are: over the back-tests, the mean ratio of true to expected
    squared error, and the share of ratios inside the band that holds 95 % of them in so many dimensions."""
    clock, gram, T = observed.clock, observed.total, observed.clock.size
    ratios = []
    for cutoff in _cutoffs(T):
        fit = gaussian.fit(clock[: cutoff + 1], gram[: cutoff + 1, : cutoff + 1], observed.beta1)
        if fit is None:
            continue
        for target in range(cutoff + 1, T):
            prediction = gaussian.predict(clock[: cutoff + 1], fit, float(clock[target]), observed.beta1)
            b = np.zeros(T)
            b[: cutoff + 1] = prediction.coefficients
            b[target] -= 1
            if prediction.expected_error > 0:
                ratios.append(float(b @ gram @ b) / prediction.expected_error)
    if not ratios:
        return {"forecasts": 0, "mean_ratio": math.nan, "inside_95": math.nan}
    d = max(dimension, 1.0)
    low, high = np.quantile(np.random.default_rng(seed).chisquare(d, 100_000) / d, [0.025, 0.975])
    inside = np.mean([low <= ratio <= high for ratio in ratios])
    return {"forecasts": len(ratios), "mean_ratio": float(np.mean(ratios)), "inside_95": float(inside)}


def backtest(observed: Observations, *, rank: int = 1) -> dict[str, Any]:
    """The record of `backtest.json`: every score, pooled skill, the recommended horizon and best method."""
    clock, steps = observed.clock, observed.steps
    test = drift_test(observed.total, steps, clock, observed.beta1)
    table: list[dict[str, Any]] = []
    pooled: dict[str, list[Pooled]] = {}
    for method in methods(beta1=observed.beta1, rank=rank).values():
        scores = score(observed, method)
        pooled[method.name] = pool(scores, clock)
        table += [
            {
                "method": one.method,
                "cutoff": int(steps[one.cutoff]),
                "horizon": int(steps[one.target] - steps[one.cutoff]),
                "skill": one.skill,
                "relative_error": math.sqrt(max(one.error, 0.0) / one.hold_error) if one.hold_error > 0 else math.nan,
                "cosine": one.cosine,
            }
            for one in scores
        ]
    horizons = {name: recommended_horizon(found, test) for name, found in pooled.items() if name != "hold"}
    best = _best(pooled, horizons)
    return {
        "recommended_horizon": horizons[best] if best != "hold" else 0,
        "best_method": best,
        "drift_found": bool(test and test.found),
        "horizons": horizons,
        "pooled": {
            name: [{"horizon": p.horizon, "skill": p.skill, "low": p.low, "cutoffs": p.cutoffs} for p in found]
            for name, found in pooled.items()
        },
        "calibration": calibration(observed, test.effective_dimension if test else 1.0),
        "skill": table,
    }


def _best(pooled: dict[str, list[Pooled]], horizons: dict[str, float]) -> str:
    """The method that goes furthest, the most skilful of those up to there; hold where none goes anywhere."""
    furthest = max(horizons.values(), default=0.0)
    if furthest == 0:
        return "hold"
    able = [name for name, horizon in horizons.items() if horizon == furthest]
    return max(able, key=lambda name: np.mean([p.skill for p in pooled[name] if p.horizon <= furthest]))
