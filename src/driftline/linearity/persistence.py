"""How long the run keeps its direction: the persistence length of its drift, from the Gram alone.

Every parameter is a draw of one Gaussian process: a drift whose velocity is an Ornstein-Uhlenbeck
process with persistence length l (l to infinity is a straight line), a random walk with the
optimizer's momentum, and independent noise at each checkpoint. The likelihood of increments needs
only their Gram C (and, being of increments, is the restricted one):

    -2 log L / N = log det S + tr(S^-1 C / N),   S = drift(l) + walk + noise.

The three variances are found by Fisher scoring: for a covariance that is linear in them each step is a least-squares
problem, solved with none negative and shortened until the likelihood grows. (Multiplicative iterations, which never
reach zero, stopped short of it.) l is found by its profile, which also gives the interval.

N, the number of independent directions, is not known: weights move together, and the model is not quite
true. So it is what makes the model's deviance from the Gram its own degrees of freedom (quasi-likelihood,
Wedderburn 1974), N = (m (m + 1) / 2 - 4) / (2 (-log L / N + log L_saturated / N)), and what is left of
the deviance is compared with F, not chi-squared. Where the model fits badly N is small and the interval wide.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from driftline.linearity.null import walk_covariance
from driftline.linearity.statistics import increments_gram, optimizer_memory
from driftline.linearity.student import student

Array = np.ndarray

_MOST_CHECKPOINTS = 60  # longer runs are thinned for this fit, whose cost grows as their cube
_LONGEST = 10.0  # times the span of the run: beyond, a bend could not be seen
_GRID = 25
_CONVERGED, _HALVINGS = 1e-8, 12
_FITTED = 4  # figures: three variances and a length


@dataclass(frozen=True)
class Persistence:
    """Persistence length in steps with its 95 % interval.

    `length` is 0 where no drift is seen. `at_least` says that the likelihood still rises at the longest
    length that this run could tell from a straight line; the interval's upper end is then unknown (inf).
    """

    length: float
    low: float
    high: float
    at_least: bool


@dataclass(frozen=True)
class Fit:
    """The model at its most likely: length of the drift (steps), variances of drift, walk and noise, -log L."""

    length: float
    variances: Array
    loss: float


@dataclass(frozen=True)
class Directions:
    """How many independent directions a run moves in, as far as the model goes; from so many degrees of freedom."""

    number: float
    freedom: int

    @property
    def half_deviance(self) -> float:
        """Half of the 95 % point of the deviance of one figure: that of F with 1 and `freedom` degrees of freedom."""
        return student(0.975, self.freedom) ** 2 / 2


def directions(loss: float, increments: Array) -> Directions:
    """From the least -log L per direction that the model has of increments' Gram C [m, m], m >= 3."""
    m = increments.shape[0]
    spectrum = np.linalg.eigvalsh(increments * m / np.trace(increments))
    saturated = (np.log(np.maximum(spectrum, 1e-9 * spectrum[-1])).sum() + m) / 2
    freedom = m * (m + 1) // 2 - _FITTED
    return Directions(freedom / (2 * max(loss - saturated, 1e-12)), freedom)


def drift_covariance(steps: Array, length: float) -> Array:
    """Covariance [T-1, T-1] of the increments of an integrated, stationary Ornstein-Uhlenbeck velocity."""
    time = np.asarray(steps, np.float64)
    lag = np.abs(time[:, None] - time[None, :])
    # -V/2 up to terms that differencing removes: V(n) = 2 l² (n / l - 1 + exp(-n / l)), l² for its scale
    x = lag / length
    half = -(length**2) * np.where(x < 1e-4, x**2 / 2 * (1 - x / 3), x + np.expm1(-x))  # the series: no cancellation
    return np.diff(np.diff(half, axis=0), axis=1)


def fit_variances(parts: Array, increments: Array, iterations: int = 100) -> tuple[Array, Array]:
    """Variances of the covariance parts that best explain C / N, for several sets of parts at once.

    Args:
        parts: [sets, P, m, m]; increments: C [m, m].

    Returns:
        Variances [sets, P] and -log L per dimension [sets].
    """
    m = increments.shape[0]
    scale = np.trace(increments) / m
    C = increments / scale
    sizes = np.trace(parts, axis1=2, axis2=3) / m
    parts = parts / sizes[:, :, None, None]
    variances = np.full(parts.shape[:2], 1 / parts.shape[1])
    inverse, loss = _likelihood(variances, parts, C)
    for _ in range(iterations):
        pulled = inverse[:, None] @ parts
        information = np.einsum("spij,sqji->spq", pulled, pulled)
        wanted = np.einsum("spij,sji->sp", pulled, inverse @ C)
        towards = _nonnegative(information, wanted) - variances
        if np.abs(towards).max() < _CONVERGED:
            break
        before, size = loss, np.ones(len(parts))
        for _ in range(_HALVINGS):  # of the steps that go too far
            tried = variances + size[:, None] * towards
            inverse, loss = _likelihood(tried, parts, C)
            if not (far := loss > before).any():
                break
            size = np.where(far, size / 2, size)
        else:
            tried = np.where(far[:, None], variances, tried)
            inverse, loss = _likelihood(tried, parts, C)
        done = (before - loss).max() < _CONVERGED * 1e-4
        variances = tried
        if done:
            break
    return variances * scale / sizes, loss


def _likelihood(variances: Array, parts: Array, increments: Array) -> tuple[Array, Array]:
    """The total covariance's inverse [sets, m, m], and -log L per dimension [sets]."""
    total = _total(variances, parts)
    inverse = np.linalg.inv(total)
    return inverse, (np.linalg.slogdet(total)[1] + np.einsum("sij,ij->s", inverse, increments)) / 2


def _nonnegative(information: Array, wanted: Array) -> Array:
    """The v >= 0 [sets, P] with the least v F v / 2 - v w, of F [sets, P, P] and w [sets, P]: the best of all choices of zeros."""
    P = wanted.shape[1]
    free = np.array(list(itertools.product([False, True], repeat=P)))[:, None]  # [choices, 1, P]
    size = np.sqrt(np.maximum(np.diagonal(information, axis1=1, axis2=2), 1e-300))
    unit = information / (size[:, :, None] * size[:, None, :]) + 1e-12 * np.eye(P)
    aim = np.where(free, wanted / size, 0.0)
    kept = np.where(free[..., :, None] & free[..., None, :], unit, np.eye(P))
    found = np.linalg.solve(kept, aim[..., None])[..., 0]
    value = np.where((found >= 0).all(-1), -np.einsum("csp,csp->cs", found, aim) / 2, np.inf)
    return np.take_along_axis(found, value.argmin(0)[None, :, None], 0)[0] / size


def _total(variances: Array, parts: Array) -> Array:
    return np.einsum("sp,spij->sij", variances, parts) + 1e-9 * np.eye(parts.shape[-1])


def parts(steps: Array, length: float, beta1: float) -> Array:
    """Covariances [3, T-1, T-1] of the increments due to drift, walk and independent noise, each of variance 1."""
    m = len(steps) - 1
    walk = np.diff(np.diff(walk_covariance(steps, beta1), axis=0), axis=1)
    noise = 2 * np.eye(m) - np.eye(m, k=1) - np.eye(m, k=-1)
    return np.stack([drift_covariance(steps, length), walk, noise])


def profile(gram: Array, steps: Array, beta1: float, *, refinements: int = 3) -> list[Fit]:
    """The best fit at each of several lengths, in order of length, closer together around the best."""
    increments, span = increments_gram(gram), float(steps[-1] - steps[0])
    shortest = min(max(span / (len(steps) - 1), optimizer_memory(beta1)), span)
    fits: dict[float, Fit] = {}
    lengths = np.geomspace(shortest, _LONGEST * span, _GRID)
    for _ in range(refinements):
        found = fit_variances(np.stack([parts(steps, length, beta1) for length in lengths]), increments)
        fits |= {
            float(length): Fit(float(length), v, float(loss)) for length, v, loss in zip(lengths, *found, strict=True)
        }
        tried = sorted(fits)
        best = min(range(len(tried)), key=lambda i: fits[tried[i]].loss)
        lengths = np.geomspace(tried[max(best - 1, 0)], tried[min(best + 1, len(tried) - 1)], 9)[1:-1]
    return [fits[length] for length in tried]


def thinned(gram: Array, steps: Array, most: int) -> tuple[Array, Array]:
    """Gram and steps of at most so many checkpoints, spread evenly, the first and last among them."""
    if len(steps) <= most:
        return gram, steps
    rows = np.unique(np.linspace(0, len(steps) - 1, most).round().astype(int))
    return gram[np.ix_(rows, rows)], steps[rows]


def persistence(gram: Array, steps: Array, beta1: float) -> Persistence | None:
    """The persistence length of one run; None where it is too short (fewer than five checkpoints)."""
    if len(steps) < 5:
        return None
    gram, steps = thinned(gram, steps, _MOST_CHECKPOINTS)
    increments = increments_gram(gram)
    if not np.trace(increments) > 0:
        return None
    fits = profile(gram, steps, beta1)
    best = min(range(len(fits)), key=lambda i: fits[i].loss)
    found = directions(fits[best].loss, increments)
    tried = [fit.length for fit in fits]
    gain = found.number * (np.array([fit.loss for fit in fits]) - fits[best].loss)
    low = _crossing(tried[: best + 1][::-1], gain[: best + 1][::-1], found.half_deviance)
    high = _crossing(tried[best:], gain[best:], found.half_deviance)
    without = fit_variances(parts(steps, tried[0], beta1)[None, 1:], increments)[1]
    if found.number * (without[0] - fits[best].loss) < found.half_deviance:
        return Persistence(0.0, 0.0, float("inf") if high is None else high, False)
    return Persistence(tried[best], low or 0.0, float("inf") if high is None else high, best == len(tried) - 1)


def _crossing(lengths: list[float], gain: Array, most: float) -> float | None:
    """The length, going outward from the best, where half the deviance reaches `most`; None if it never does."""
    outside = np.flatnonzero(gain > most)
    if outside.size == 0:
        return None
    last = outside[0]
    return float(np.exp(np.interp(most, gain[last - 1 : last + 1], np.log(lengths[last - 1 : last + 1]))))
