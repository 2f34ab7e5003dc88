"""Best linear unbiased prediction (kriging) of the weights, and its standard error, from the Gram alone.

Every parameter is a draw of the Gaussian process of `linearity.persistence`: a drift that keeps its
direction over a persistence length, a random walk with the optimizer's momentum, and independent noise
at each checkpoint (rounding, sampling). With its variances and length fitted by restricted maximum
likelihood, the forecast of the noiseless weights is

    Ŵ(s) = W_last + k(s)ᵀ S^-1 I,

with I the observed increments, S their covariance and k(s) the covariance of W(s) - W_last with them.
As the persistence length grows and all noise is a walk, this is a shrunk two-point line from the last
checkpoint; with no walk it is least squares.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from driftline.linearity import persistence
from driftline.linearity.persistence import Directions, Fit, parts, profile, thinned
from driftline.linearity.skill import Target, hold
from driftline.linearity.statistics import increments_gram

Array = np.ndarray

_FEWEST = 4  # checkpoints: below, three variances and a length cannot be fitted
_MOST_FITTED = 30  # checkpoints: the variances of longer runs are fitted on so many, spread evenly


@dataclass(frozen=True)
class Prediction:
    """Coefficients a [T], and the expected squared error summed over the Gram's parameters."""

    coefficients: Array
    expected_error: float


def predict(clock: Array, fit: Fit, target: float, beta1: float) -> Prediction:
    """The forecast under fitted variances, with the error of the weights actually saved at the target."""
    T = clock.size
    times = np.append(clock, target)
    drift, walk, noise = (
        variance * part for variance, part in zip(fit.variances, parts(times, fit.length, beta1), strict=True)
    )
    whole = drift + walk + noise
    observed, k = whole[:-1, :-1], whole[:-1, -1]
    scale = np.trace(observed) / (T - 1)
    weights = np.linalg.solve(observed + 1e-9 * scale * np.eye(T - 1), k)
    a = np.zeros(T)
    a[-1] = 1.0
    a[1:] += weights
    a[:-1] -= weights
    return Prediction(a, float(max(whole[-1, -1] - k @ weights, 0.0)))


def fit(clock: Array, gram: Array, beta1: float) -> Fit | None:
    """The most likely variances and persistence length; None for too few checkpoints or a run at rest."""
    return _fit(clock.tobytes(), np.ascontiguousarray(gram).tobytes(), beta1)


@lru_cache(maxsize=256)  # a fit serves every target from its cutoff
def _fit(clock_bytes: bytes, gram_bytes: bytes, beta1: float) -> Fit | None:
    clock = np.frombuffer(clock_bytes)
    gram = np.frombuffer(gram_bytes).reshape(clock.size, clock.size)
    if clock.size < _FEWEST or not np.trace(increments_gram(gram)) > 0:
        return None
    gram, clock = thinned(gram, clock, _MOST_FITTED)
    return min(profile(gram, clock, beta1, refinements=1), key=lambda found: found.loss)


def directions(clock: Array, gram: Array, beta1: float) -> Directions | None:
    """How many independent directions the run moves in; None for fewer than five checkpoints or a run at rest."""
    found = fit(clock, gram, beta1)
    if found is None or clock.size <= _FEWEST:
        return None
    return persistence.directions(found.loss, increments_gram(thinned(gram, clock, _MOST_FITTED)[0]))


def blup(clock: Array, gram: Array, target: Target, beta1: float = 0.9) -> Array:
    """The kriging coefficients; holds the last checkpoint where there are too few to fit."""
    found = fit(clock, gram, beta1)
    if found is None:
        return hold(clock, target)
    rows = [predict(clock, found, float(one), beta1).coefficients for one in np.atleast_1d(target)]
    return np.reshape(rows, (*np.shape(target), clock.size))
