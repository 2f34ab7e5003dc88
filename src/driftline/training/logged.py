"""The figures of a run's linearity for its logs, from its increments so far; no trainer is needed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import reduce

import numpy as np

from driftline.forecast.backtest import FEWEST_SEEN, Scores, pool, recommended_horizon, score
from driftline.forecast.extrapolators import method_named
from driftline.forecast.observations import Observations
from driftline.linearity import looks, null, statistics
from driftline.linearity.drift import drift_test
from driftline.training.increments import Increments
from driftline.watching.collapse import direction_lost, moving_further, skills_ahead

Array = np.ndarray

ENOUGH_ROWS = 8  # for a horizon, and for a warning
_NULL_DRAWS = 4_000
_R2_EVERY, _HORIZON_EVERY = 1.25, 1.5  # costly figures are had anew when the run has grown by this factor
_WALKS = 399  # of the drift test: a verdict at the level of each look needs no more
_FAR_PAIRS = 3  # of increments further apart than the optimizer's memory: fewer say nothing of drift
_RECENT = 3  # forecasts whose mean skill is shown
_METHODS = ("two-point", "damped")


class LoggedFigures:
    """Figures by name; the costly ones are remembered until the run has grown enough to have them anew.

    Attributes:
        had: costly figures, and how many steps the run was long when they were had.

    Args:
        beta1: of the optimizer's momentum; 0 for none.
    """

    def __init__(self, beta1: float) -> None:
        self.beta1 = beta1
        self.had: dict[str, tuple[int, dict[str, float]]] = {}

    def of(self, run: Increments, r2: Callable[[Array], Array]) -> dict[str, float]:
        """The figures of the steps kept so far; those that cannot be had are left out.

        Args:
            r2: R² of every parameter that changed, of the deltas at the steps [T] it is given.
        """
        steps = np.array(run.steps, np.float64)
        found: dict[str, float] = {}
        if steps.size >= 3:
            found |= self._now_and_then(
                "r2", _R2_EVERY, steps, lambda: self._r2_beside_null(r2(steps), steps, run.gram)
            )
        if steps.size > FEWEST_SEEN:
            gram = statistics.gram_of_increments(run.gram)
            found |= self._drift(run.gram, gram, steps)
        if steps.size >= ENOUGH_ROWS:
            found |= self._now_and_then("horizon", _HORIZON_EVERY, steps, lambda: self._horizon(gram, steps))
            whole = run.settled
            increments, clock = run.gram[:whole, :whole], steps[: whole + 1]
            rates = np.array(run.spans[:whole]) / np.diff(clock)
            warnings = {
                "direction_lost": direction_lost(increments, clock, self.beta1),
                "moving_further": moving_further(increments, clock, rates),
            }
            for name, since in warnings.items():
                found[name] = float(since is not None)
                if since is not None:
                    found[f"{name}_since"] = since
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def _drift(self, increments: Array, gram: Array, steps: Array) -> dict[str, float]:
        """Growth and skill beside those of a driftless walk; cosine and drift of increments that share no momentum, once
        there are such.
        """
        walk = null.matched_gram(steps, self.beta1, np.sqrt(np.clip(np.diag(increments), 0, None)))
        found = {
            "growth_exponent": statistics.growth_exponent(gram, steps)[0],
            "null_growth_exponent": statistics.growth_exponent(walk, steps)[0],
            "skill_ahead": float(skills_ahead(gram, steps)[-_RECENT:].mean()),
            "null_skill_ahead": float(skills_ahead(walk, steps)[-_RECENT:].mean()),
        }
        pairs = statistics.far_pairs(steps, statistics.optimizer_memory(self.beta1))
        if pairs[0].size < _FAR_PAIRS:
            return found
        noise_to_drift = statistics.drift_and_noise(gram, steps, pairs)[1]
        shared = null.increment_correlation(steps, self.beta1)
        return found | {
            "increment_cosine": statistics.mean_cosine(increments, pairs)[0],
            "null_increment_cosine": float(shared[pairs].mean()),
            "drift_to_noise": 1 / noise_to_drift if noise_to_drift else math.inf,
        }

    def _r2_beside_null(self, r2: Array, steps: Array, increments: Array) -> dict[str, float]:
        if not r2.size:
            return {}
        chance = null.null_r2(steps, steps, self.beta1, lengths=np.sqrt(np.diag(increments)), draws=_NULL_DRAWS)
        return {
            "r2_mean": float(r2.mean()),
            "r2_median": float(np.median(r2)),
            "null_r2_mean": chance.mean_r2,
            "null_r2_median": chance.quantile(0.5),
        }

    def _horizon(self, gram: Array, steps: Array) -> dict[str, float]:
        """The furthest of the methods' recommended horizons, as `driftline backtest` has them.

        It is had again and again, so drift must be found at the small level of one look of many, as by `driftline watch`: at
        the level of one test 12 of 200 driftless runs had a horizon at some log.
        """
        observed = Observations(steps, steps, self.beta1, {"sample": gram})
        test = drift_test(gram, steps, steps, self.beta1, draws=_WALKS)
        test = None if test is None else replace(test, level=looks.EACH)
        known = [method_named(name) for name in _METHODS]
        scores = [reduce(Scores.__add__, score(observed, method).values()) for method in known]
        pooled = [pool(one, observed, method) for one, method in zip(scores, known, strict=True)]
        return {"recommended_horizon": max(recommended_horizon(one, test) for one in pooled)}

    def _now_and_then(
        self, what: str, growth: float, steps: Array, compute: Callable[[], dict[str, float]]
    ) -> dict[str, float]:
        elapsed = int(steps[-1] - steps[0])
        if what not in self.had or elapsed >= growth * self.had[what][0]:
            self.had[what] = (elapsed, compute())
        return self.had[what][1]
