"""What samples say of a model: avg@k, pass@k, and how far each can be trusted.

    avg@k  = mean over problems of (right samples / samples)
    pass@k = mean over problems of 1 - C(n - c, k) / C(n, k),   c of n samples right   (Chen et al. 2021)

Problems are what was drawn from a larger world, so intervals and tests resample problems, never single
samples. Shapes: P problems, n samples of each.
"""

from __future__ import annotations

import math

import numpy as np

from driftline.errors import InputError
from driftline.evaluation.records import Difference, Figures

Array = np.ndarray

_RESAMPLES = 9999
_RESAMPLES_OF_EACH = 400  # of the best of many: the least p-value, times how many, is then .005
_LEVEL = 0.05
_MORE = 0.5  # problems more, of a kind that was not drawn
_EQUAL = 1e-12  # what rounding makes of values that are equal
_BATCH = 1 << 24  # values of resampled problems held at once


def pass_at_k(right: Array, k: int) -> Array:
    """Of each problem, the unbiased chance [P] that one of `k` samples is right, from `right` [P, n].

    Raises:
        InputError: fewer than `k` samples.
    """
    n = right.shape[1]
    if not 1 <= k <= n:
        raise InputError(f"pass@{k} needs {k} samples of each problem: there are {n}, sample more")
    wrong = n - np.count_nonzero(right, axis=1)
    draws = np.arange(k)
    return 1 - np.prod(np.clip((wrong[:, None] - draws) / (n - draws), 0, None), axis=1)


def ks(samples: int) -> list[int]:
    """The k that pass@k is reported at: 1, 2, 4, ... and all."""
    return sorted({*(1 << i for i in range(samples.bit_length())), samples})


def summarize(right: Array, lengths: Array, truncated: Array, scores: Array, *, seed: int = 0) -> Figures:
    """The figures of one model, from four arrays [P, n]: right or not, tokens, cut off at the limit or not, score."""
    avg = right.mean(1)
    passes = {str(k): pass_at_k(right, k) for k in ks(right.shape[1])}
    return Figures(
        avg_at_k=float(avg.mean()),
        interval=list(bootstrap_interval(avg, seed=seed)),
        pass_at_k={k: float(values.mean()) for k, values in passes.items()},
        pass_at_k_interval={k: list(bootstrap_interval(values, seed=seed)) for k, values in passes.items()},
        response_tokens=float(lengths.mean()),
        truncated=float(truncated.mean()),
        mean_score=float(scores.mean()),
    )


def bootstrap_interval(values: Array, *, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Interval of the mean of `values` [P], each from 0 to 1, over problems: a Bayesian bootstrap (Rubin 1981).

    Problems are weighed at random, by Dirichlet's law. What bootstraps do not see are problems of a kind that was not
    drawn: few are solved at a mean of .05, and a sample without the one that always is has too short an interval. So
    half a problem more takes part, with none right for the lower end and all right for the upper. (Of one sample a
    problem, where each is right or wrong, that is within a hair of Jeffreys' interval, on the outside.)

    Where all problems have one value, the ends are what Clopper and Pearson give: a share q of other problems would
    still have gone unseen with probability (1 - q)^P, and q is such that this is half the level.

    Raises:
        InputError: there is no problem.
    """
    values, tail = np.asarray(values, np.float64), (1 - level) / 2
    if not values.size:
        raise InputError("no problems: an interval needs at least one")
    if np.ptp(values) == 0:
        unseen = _unseen(values.size, tail)
        return float((1 - unseen) * values[0]), float((1 - unseen) * values[0] + unseen)
    known, counts = np.unique(values, return_counts=True)
    rng = np.random.default_rng(seed)
    batches = _batches(_RESAMPLES, known.size)
    weights = [rng.standard_gamma(counts, (n, known.size)) for n in batches]
    right = np.concatenate([part @ known for part in weights])
    total = np.concatenate([part.sum(1) for part in weights])
    more = rng.standard_gamma(_MORE, _RESAMPLES)
    low, high = np.quantile(right / (total + more), tail), np.quantile((right + more) / (total + more), 1 - tail)
    return float(low), float(high)


def _unseen(problems: int, tail: float) -> float:
    """The largest share of the world that so many problems drawn from it still miss with probability `tail`."""
    return 1 - tail ** (1 / problems)


def paired_difference(first: Array, second: Array, *, tried: int = 1, seed: int = 0) -> Difference:
    """First minus second, of two models' values [P] on the same problems.

    The p-value is two-sided, from swapping the models within each problem at random (every way, if few). Of the best of
    many it is to be multiplied by how many were `tried`: the more they are, the more ways are looked at. The 95 %
    interval holds the differences that this test would not refuse at the 5 % level, so that 0 lies outside exactly
    where p is .05 or less. A difference is refused where few of the means over a random part of the problems lie beyond
    it (Hartigan 1969). Below six problems no swap is rare enough, and the interval is all there can be.

    Where all problems differ by one value, its ends are those of `bootstrap_interval`: problems not seen may differ by
    anything, but, where the test tells the sign, not by the other sign.

    Raises:
        InputError: there is no problem.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    change = first - second
    if not change.size:
        raise InputError("no problems: a difference needs at least one")
    change[np.abs(change) < _EQUAL] = 0.0
    sums, counts = _parts(change, max(_RESAMPLES, _RESAMPLES_OF_EACH * tried - 1), np.random.default_rng(seed))
    means = np.sort(sums / counts)
    ways = means.size + 1  # the part of no problem stands for the models as they are
    beyond = min((means <= _EQUAL).sum(), (means >= -_EQUAL).sum())
    p = min(2 * (1 + int(beyond)) / ways, 1.0)
    refused = math.floor(_LEVEL / 2 * ways + _EQUAL)
    low, high = (float(means[refused - 1]), float(means[-refused])) if refused else (-1.0, 1.0)
    if np.ptp(change) < _EQUAL:
        unseen, value = _unseen(change.size, _LEVEL / 2), float(change[0])
        told = p <= _LEVEL
        low = (1 - unseen) * value - unseen * (not (told and value > 0))
        high = (1 - unseen) * value + unseen * (not (told and value < 0))
    return Difference(mean=float(change.mean()), interval=[low, high], p_value=p)


def _parts(change: Array, ways: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Sum of `change` [P] over parts of the problems, and their number: of every part but none, or of random ones."""
    P = change.size
    if ways >= 2**P:
        every = np.arange(1, 2**P)[:, None] >> np.arange(P) & 1
        return every @ change, every.sum(1)
    parts = [rng.integers(0, 2, (n, P), np.int8) for n in _batches(ways, P)]
    sums = np.concatenate([part @ change for part in parts])
    counts = np.concatenate([part.sum(1, dtype=np.int64) for part in parts])
    return sums[counts > 0], counts[counts > 0]


def _batches(draws: int, values: int) -> list[int]:
    """Sizes of batches of draws, each of so many values, that fit in memory."""
    batch = max(_BATCH // values, 1)
    return [min(batch, draws - start) for start in range(0, draws, batch)]
