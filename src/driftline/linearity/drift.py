"""Is there drift at all? The run's statistics against those of a driftless walk like it.

R² cannot tell: a walk has plenty. Three figures can, each against simulated walks that have the run's
checkpoints, its increments' lengths, its optimizer's momentum and its effective dimension:

- the mean cosine between increments further apart than the optimizer's memory, less what the walk's momentum
  alone gives each pair, over its own spread (a t statistic: its null hardly depends on how many independent
  directions the noise has);
- the growth exponent of ||D_t||;
- the held-out skill of the best straight line.

Drift is found at the 5 % level when the cosine is above its null's 95 % point and at least one of the
other two is above its own: never more than 5 % of driftless runs, and a line buried in independent
noise, which hides from the growth exponent, is still seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from driftline.linearity import null, skill, statistics

Array = np.ndarray

LEVEL = 0.05
_FEWEST = 3  # pairs of increments: fewer have no spread to speak of
_LARGE = 4096  # a dimension in which the spread of cosines is inversely proportional to it


@dataclass(frozen=True)
class DriftTest:
    """p-values (share of driftless walks that do as well) of the three figures, and their verdict."""

    cosine_p: float
    growth_p: float
    skill_p: float
    effective_dimension: float
    least_dimension: float  # its lower 95 % point: few pairs of increments say little of their spread
    null_growth: float

    @property
    def found(self) -> bool:
        return self.cosine_p <= LEVEL and min(self.growth_p, self.skill_p) <= LEVEL


def drift_test(
    gram: Array, steps: Array, clock: Array, beta1: float, *, draws: int = 999, seed: int = 0
) -> DriftTest | None:
    """The test for one run's Gram [T, T]; None where three separated pairs of increments are not to be had."""
    pairs = statistics.separated_pairs(steps, statistics.optimizer_memory(beta1), at_least=_FEWEST)
    increments = statistics.increments_gram(gram)
    lengths = np.sqrt(np.clip(np.diag(increments), 0, None))
    if pairs[0].size < _FEWEST or not (lengths > 0).all():
        return None
    rng = np.random.default_rng(seed)
    draws = int(np.clip(20_000_000 // gram.size, 199, draws))
    batch = max(2_000_000 // gram.size, 1)
    correlation = null.increment_correlation(steps, beta1)
    covariance = correlation * np.outer(lengths, lengths)
    shared = correlation[pairs]  # what momentum gives; close checkpoints have much of it, and each pair another

    observed = _figures(increments[None], pairs, shared, clock)[:, 0]
    spread = (_cosines(increments[None], pairs) - shared).std(ddof=1)
    large = null.simulated_increments(covariance, _LARGE, min(batch, 199), rng)
    variances = _LARGE * (_cosines(large, pairs) - shared).var(-1, ddof=1) / max(spread**2, 1e-12)
    parts = []
    for n in null.batches(draws, batch):
        # a few pairs say little of the dimension, so it is drawn for each walk from what they leave possible
        dimensions = np.clip(rng.choice(variances, n), 1, 1e9)
        walks = null.simulated_increments(covariance, dimensions, n, rng)
        parts.append(_figures(walks, pairs, shared, clock))
    chance = np.concatenate(parts, axis=1)
    p = (1 + (chance >= observed[:, None]).sum(1)) / (1 + chance.shape[1])
    p = np.where(np.isnan(observed), 1.0, p)
    return DriftTest(
        cosine_p=float(p[0]),
        growth_p=float(p[1]),
        skill_p=float(p[2]),
        effective_dimension=float(np.mean(variances)),
        least_dimension=float(np.quantile(variances, LEVEL)),
        null_growth=float(np.nanmedian(chance[1])),
    )


def _cosines(increments: Array, pairs: tuple[Array, Array]) -> Array:
    """[draws, pairs] of increments' Grams [draws, m, m]."""
    norms = np.sqrt(np.diagonal(increments, axis1=1, axis2=2))
    return increments[:, pairs[0], pairs[1]] / (norms[:, pairs[0]] * norms[:, pairs[1]])


def _figures(increments: Array, pairs: tuple[Array, Array], shared: Array, clock: Array) -> Array:
    """The three figures [3, draws]: cosine beyond what is `shared` by momentum, over its spread; growth exponent; best
    held-out skill.
    """
    cosines = _cosines(increments, pairs) - shared
    gram = np.zeros((increments.shape[0], clock.size, clock.size))
    gram[:, 1:, 1:] = increments.cumsum(1).cumsum(2)
    x = np.log(clock[1:] - clock[0])
    x -= x.mean()
    norms = np.log(np.clip(np.diagonal(gram, axis1=1, axis2=2)[:, 1:], 1e-300, None)) / 2
    best = np.fmax.reduce(list(skill.held_out_skill(gram, clock).values()))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = cosines.mean(1) / cosines.std(1, ddof=1)
    return np.stack([ratio, norms @ x / (x @ x), best])
