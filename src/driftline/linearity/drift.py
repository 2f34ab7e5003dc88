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

Found is not yet large: in very many directions a cosine of .001 is told from chance. A drift is negligible where
separated increments share less than a cosine of `LEAST_COSINE` and less than half of the whole way is drift.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from driftline.linearity import null, skill, statistics

Array = np.ndarray

LEVEL = 0.05
LEAST_COSINE, LEAST_SHARE = 0.05, 0.5
_MOMENTA = (0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999)  # tried as the memory at which a verdict breaks down
_FEWEST = 3  # pairs of increments: fewer have no spread to speak of
_BREAKDOWN_WALKS = 199  # of each momentum tried
_SETTLED = 1000  # steps until Adam's second moment has settled: 1 / (1 - beta2) for its usual beta2 of .999
_LARGE = 4096  # a dimension in which the spread of cosines is inversely proportional to it


@dataclass(frozen=True)
class DriftTest:
    """p-values (share of driftless walks that do as well) of the three figures, their verdict, and how large the drift is.

    Attributes:
        effective_dimension: independent directions of the noise; least_dimension: its lower 95 % point.
        null_growth: median growth exponent of the walks.
        cosine: mean cosine of separated increments beyond what momentum alone gives.
        share: how much of the squared way from the first checkpoint to the last is drift, 0 to 1.
        level: at which drift is found.
        holds_up_to: the largest beta1 of those tried at which drift is still found; None where that was not asked.
        later: the test without the first intervals, see `without_start`; None where that was not asked, or cannot be had.
    """

    cosine_p: float
    growth_p: float
    skill_p: float
    effective_dimension: float
    least_dimension: float  # few pairs of increments say little of their spread
    null_growth: float
    cosine: float
    share: float
    level: float = LEVEL
    holds_up_to: float | None = None
    later: Later | None = None

    @property
    def found(self) -> bool:
        """Whether drift is told from chance."""
        return self.cosine_p <= self.level and min(self.growth_p, self.skill_p) <= self.level

    @property
    def negligible(self) -> bool:
        """Whether the drift, found or not, is too small to matter."""
        return self.cosine < LEAST_COSINE and self.share < LEAST_SHARE

    @property
    def of_the_start(self) -> bool:
        """Whether drift may be of the first intervals alone: not found without them, and there less than half as large.

        Half a run sees less than a whole, so that not to find a weak drift in it says little.
        """
        return self.later is not None and not self.later.test.found and self.later.test.cosine < self.cosine / 2

    @property
    def linear(self) -> bool:
        """Whether there is drift, and not a negligible one."""
        return self.found and not self.negligible


@dataclass(frozen=True)
class Later:
    """A test by the checkpoints from step `first` on."""

    first: int
    test: DriftTest


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
        cosine=float((_cosines(increments[None], pairs) - shared).mean()),
        share=_share(gram, increments - covariance, clock, pairs),
    )


def breakdown(gram: Array, steps: Array, clock: Array, beta1: float) -> float:
    """The largest momentum up to which drift is still found, of some above `beta1`, at which it is: that one, if at no other.

    Momentum of long memory and a drift that turns look alike: this says how long a memory it takes.
    """
    tried = [beta1, *(other for other in _MOMENTA if other > beta1)]
    held, failed = 0, len(tried)
    while failed - held > 1:
        middle = (held + failed) // 2
        test = drift_test(gram, steps, clock, tried[middle], draws=_BREAKDOWN_WALKS)
        held, failed = (middle, failed) if test is not None and test.found else (held, middle)
    return tried[held]


def without_start(gram: Array, steps: Array, clock: Array, beta1: float) -> Later | None:
    """The test without the first intervals; None where there are none to leave out, or too few checkpoints after them.

    Until Adam's second moment has settled it is made of the very gradients that it scales, and where these are skewed
    the updates drift without any signal: by minus half the skewness over the steps so far, in units of the noise of a
    step. So what is left out begins before that is over, but is no more than the first half of the checkpoints.
    """
    first = min(int(np.searchsorted(steps, _SETTLED)), steps.size // 2)
    rows = np.arange(first, steps.size)
    if first == 0:
        return None
    test = drift_test(statistics.rebased(gram, rows), steps[rows], clock[rows], beta1, draws=_BREAKDOWN_WALKS)
    return None if test is None else Later(int(steps[first]), test)


def _share(gram: Array, beyond: Array, clock: Array, pairs: tuple[Array, Array]) -> float:
    """Squared drift, by the products of separated increments `beyond` momentum, over the squared way from first to last."""
    dt = np.diff(clock)
    squared = float(np.mean(beyond[pairs] / (dt[pairs[0]] * dt[pairs[1]])))
    way = float(gram[-1, -1])
    return float(np.clip(squared * (clock[-1] - clock[0]) ** 2 / way, 0, 1)) if way > 0 else 0.0


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
    np.cumsum(increments, axis=1, out=gram[:, 1:, 1:])
    np.cumsum(gram, axis=2, out=gram)
    x = np.log(clock[1:] - clock[0])
    x -= x.mean()
    norms = np.log(np.clip(np.diagonal(gram, axis1=1, axis2=2)[:, 1:], 1e-300, None)) / 2
    best = np.fmax.reduce(list(skill.held_out_skill(gram, clock).values()))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = cosines.mean(1) / cosines.std(1, ddof=1)
    return np.stack([ratio, norms @ x / (x @ x), best])
