"""Skill pooled over the cutoffs of a run, and how far below it the true skill may lie.

The pooled skill is s = 1 - sum e / sum h, with e and h the squared errors of a forecast and of holding. How much
chance is in it can be told in two ways, and neither alone is enough:

- over cutoffs. Forecasts of one horizon from neighbouring cutoffs share most of what they miss, so the variance of
  sum u, u = e - (1 - s) h, is one that allows for autocorrelation (Diebold & Mariano 1995; Bartlett's weights). The
  bandwidth is no longer small beside the number of forecasts, so the critical value is that of Kiefer & Vogelsang
  (2005), which grows with their ratio. Without two forecasts that share no interval there is nothing to compare.
- over directions. All cutoffs of a run share one drift: where it keeps its direction for as long as the run is, no
  cutoff tells what another draw of it would have given. Directions do: with N independent ones the Gram is a
  Wishart matrix over N, and the variance of sum u is 2 / N times the sum over all pairs of rows f, g of

      <e_f, e_g>² - 2 (1 - s) <e_f, h_g>² + (1 - s)² <h_f, h_g>²,

  of the inner products of what forecasts miss (e) and what holding misses (h).

In simulations cutoffs alone put the lower end above the true skill in up to 18 % of runs, directions alone in up to
10 %; the wider of the two in about 5 % or fewer (benchmarks/calibration.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from driftline.linearity.persistence import Directions
from driftline.linearity.student import student

Array = np.ndarray

_LEVEL = 0.95
_KIEFER_VOGELSANG = (1.6449, 2.1859, 0.3142, -0.3427)  # one-sided 95 % point in powers of bandwidth / forecasts


@dataclass(frozen=True)
class Pooled:
    """Skill over all cutoffs at one horizon (steps), with its lower 95 % end; minus infinity where that is not known."""

    horizon: float
    skill: float
    low: float
    cutoffs: int


def horizons(cutoff: Array, target: Array, moved: Array, clock: Array) -> Iterator[tuple[float, Array, int]]:
    """Each horizon, which of the forecasts [F] are of it, and how many it takes for a lower end.

    Horizons are rounded to multiples of the median interval, and it takes three. Where none has three, in a run of five
    checkpoints or of uneven ones, forecasts are pooled by how many checkpoints they look ahead instead, at the nearest
    of their horizons, and two are enough.

    Args:
        cutoff, target: rows of the checkpoints; moved: whether the run moves between them; clock: of all, [T].
    """
    unit = float(np.median(np.diff(clock)))
    reach = clock[target] - clock[cutoff]
    nearest = np.rint(reach / unit)
    known, counts = np.unique(nearest[moved & (nearest >= 1)], return_counts=True)
    if counts.size and counts.max() >= 3:
        for one in known:
            yield float(one) * unit, nearest == one, 3
        return
    lag = target - cutoff
    lags = np.unique(lag[moved])
    fewest = 3 if any((moved & (lag == one)).sum() >= 3 for one in lags) else 2
    for one in lags:
        yield float(reach[lag == one].min()), lag == one, fewest


def over_cutoffs(error: Array, hold: Array, cutoff: Array, target: Array) -> float:
    """How far below the skill its lower end lies by what the cutoffs say; infinite without two that share no interval.

    Args:
        error, hold: squared errors [n] of the forecast and of holding, in order of cutoff.
    """
    shared = (cutoff[None, :] < target[:, None]) & (cutoff[None, :] >= cutoff[:, None])
    longest = int(shared.sum(1).max())  # rows whose interval begins before that of another ends, itself among them
    if blocks(cutoff, target) < 2:
        return math.inf
    n = error.size
    u = error - error.sum() / hold.sum() * hold
    lags = min(2 * longest, n - 1)
    weight = 1 - np.abs(np.subtract.outer(np.arange(n), np.arange(n))) / (lags + 1)
    variance = u @ np.clip(weight, 0, None) @ u
    critical = np.polynomial.polynomial.polyval(min((lags + 1) / n, 1.0), _KIEFER_VOGELSANG)
    return float(critical * math.sqrt(max(variance, 0.0)) / hold.sum())


def blocks(cutoff: Array, target: Array) -> int:
    """How many of the forecasts, at most, share no interval with another."""
    count, end = 0, -1
    for c, t in sorted(zip(cutoff.tolist(), target.tolist(), strict=True), key=lambda pair: pair[1]):
        if c >= end:
            count, end = count + 1, t
    return count


def over_directions(
    missed_gram: Array, missed: Array, held_gram: Array, held: Array, skill: float, directions: Directions
) -> float:
    """How far below the skill its lower end lies by how many independent directions the run has.

    Args:
        missed, held: what forecasts and holding miss, as combinations of checkpoints [n, T]; `_gram`: times the Gram.
    """
    kept = 1 - skill
    squares = [
        np.square(left @ right.T).sum()
        for left, right in ((missed_gram, missed), (missed_gram, held), (held_gram, held))
    ]
    variance = 2 / directions.number * (squares[0] - 2 * kept * squares[1] + kept**2 * squares[2])
    moved = float(np.einsum("nt,nt->", held_gram, held))
    return student(_LEVEL, directions.freedom) * math.sqrt(max(variance, 0.0)) / moved
