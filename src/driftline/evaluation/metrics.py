"""What samples say of a model: avg@k, pass@k, and how far each can be trusted.

    avg@k  = mean over problems of (right samples / samples)
    pass@k = mean over problems of 1 - C(n - c, k) / C(n, k),   c of n samples right   (Chen et al. 2021)

Problems are what was drawn from a larger world, so intervals and tests resample problems, never single
samples. Shapes: P problems, n samples of each.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from driftline.errors import InputError
from driftline.evaluation.records import Difference, Figures

Array = np.ndarray

_RESAMPLES = 9999
_RESAMPLES_OF_EACH = 400  # of the best of many: the least p-value, times how many, is then .005
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


def bootstrap_interval(
    values: Array, *, level: float = 0.95, seed: int = 0, bounds: tuple[float, float] = (0.0, 1.0)
) -> tuple[float, float]:
    """Interval of the mean of `values` [P] over problems: bias-corrected and accelerated bootstrap.

    Where all problems have one value c the bootstrap sees no spread. A share q of other problems would still
    have gone unseen with probability (1 - q)^P; the interval allows for the q of half the level, with any values
    within `bounds`.

    Raises:
        InputError: there is no problem.
    """
    values = np.asarray(values, np.float64)
    if not values.size:
        raise InputError("no problems: an interval needs at least one")
    if np.ptp(values) == 0:
        unseen = 1 - ((1 - level) / 2) ** (1 / values.size)
        return tuple(float((1 - unseen) * values[0] + unseen * bound) for bound in bounds)  # type: ignore[return-value]
    stats = _scipy_stats()
    found = stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=level,
        n_resamples=_RESAMPLES,
        method="BCa",
        batch=max(_BATCH // values.size, 1),
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def paired_difference(first: Array, second: Array, *, tried: int = 1, seed: int = 0) -> Difference:
    """First minus second, of two models' values [P] on the same problems.

    The p-value is two-sided, from swapping the models within each problem at random (every way, if few). Of the best of
    many it is to be multiplied by how many were `tried`: the more they are, the more ways are looked at, as no p-value
    is less than two of them.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    change = first - second
    tested = _scipy_stats().permutation_test(
        (first, second),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=max(_RESAMPLES, _RESAMPLES_OF_EACH * tried - 1),
        batch=max(_BATCH // change.size, 1),
        rng=np.random.default_rng(seed),
    )
    interval = list(bootstrap_interval(change, seed=seed, bounds=(-1.0, 1.0)))
    return Difference(mean=float(change.mean()), interval=interval, p_value=float(tested.pvalue))


def must_be_installed() -> None:
    """Refuse to begin where the intervals at the end cannot be computed.

    Raises:
        InputError: scipy is not installed.
    """
    _scipy_stats()


def _scipy_stats() -> Any:
    try:
        import scipy.stats
    except ImportError as error:
        raise InputError(f"intervals need {error.name}: pip install 'driftline[eval]'") from error
    return scipy.stats
