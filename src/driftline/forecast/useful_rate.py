"""How much larger the learning rate could be, and how noisy the gradient is, from one run's Gram.

The gain of one step of size eta along a gradient g of mean G is, to second order,

    eta |G|² - eta²/2 (G'HG + tr(H S) / B),

so the largest useful rate is a multiple of |G|² / (G'HG (1 + rho)), with rho the variance of a step's noise over the
square of its drift. Along a run G keeps its direction for about as long as eta G'HG stays below |G|²: for its
persistence length l. Hence, of what the checkpoints show,

    kappa = l / (1 + rho)    the factor on the learning rate at which a step gains nothing more,
    B_noise = rho B          the batch at which noise and drift of a step are equal (arXiv 1812.06162).

The model is that of `linearity.persistence`: a drift with an Ornstein-Uhlenbeck velocity, a random walk with the
optimizer's momentum, independent noise at each checkpoint. Momentum is of the gradient as a whole, so the drift went
through it as well (`through_momentum`): what it smooths of a drift that turns looks like less noise, by so much that a
rho of five may be taken for none. Its likelihood is taken on a grid of l and rho; scale and
noise are found exactly at each point. The interval holds the points whose quasi-likelihood (Wedderburn 1974: the
number of independent dimensions is what the misfit to the increments' Gram says it is) is within its 95 % point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from driftline.linearity.null import walk_covariance
from driftline.linearity.persistence import drift_covariance, thinned
from driftline.linearity.statistics import increments_gram, optimizer_memory, rebased
from driftline.linearity.student import student

Array = np.ndarray

FEWEST = 8  # checkpoints: 28 products of increments for four parameters
_MOST = 40  # longer runs are thinned: the cost grows as the cube
_GRID, _PASSES = 25, 4  # of lengths and of ratios, closer together around the best each time
_NOISES = np.concatenate([[0.0], np.geomspace(1e-4, 1e4, 33)])  # noise at a checkpoint over the rest
_LONGEST = 10.0  # times the span of the run: beyond, a bend could not be seen
_RATIOS = (1e-3, 1e5)
_LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval; an upper end that the run does not tell is infinite."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class UsefulRate:
    """What one run says of its learning rate and its batch.

    Attributes:
        factor: kappa, on the learning rate.
        noise: rho, variance of the noise of a step over the square of its drift: B_noise in batches.
        persistence: l, in steps.
        drift: length of the drift of a step, in the weights' unit.
        span: steps that were looked at.
        dimensions: independent ones, by the misfit.
    """

    factor: Estimate
    noise: Estimate
    persistence: Estimate
    drift: float
    span: int
    dimensions: float


def useful_rate(
    gram: Array, steps: Array, beta1: float, *, through_momentum: bool = True, settled: bool = True
) -> UsefulRate | None:
    """The estimate for one run; None where it has fewer than eight checkpoints, or does not move.

    Args:
        gram: [T, T] of the deltas, in squared units of the weights.
        steps: [T], of constant learning rate.
        beta1: of the optimizer's momentum.
        through_momentum: whether the drift is smoothed by it, as the noise is.
        settled: leave out the first steps of a run from step 0, in which an optimizer that begins with nothing to
            remember takes larger and straighter steps than ever after.
    """
    steps = np.asarray(steps, np.float64)
    if settled and len(steps) and steps[0] == 0:
        rows = np.flatnonzero(steps >= (1 / (1 - beta1) - 1e-9 if beta1 > 0 else 0))
        gram, steps = (rebased(gram, rows), steps[rows]) if len(rows) else (gram[:0, :0], steps[:0])
    if len(steps) < FEWEST:
        return None
    gram, steps = thinned(gram, steps, _MOST)
    increments = increments_gram(gram)
    scale = float(np.trace(increments)) / len(increments)
    if not scale > 0:
        return None
    span = float(steps[-1] - steps[0])
    shortest = min(max(span / (len(steps) - 1), optimizer_memory(beta1) / 2), span)
    box = ((shortest, _LONGEST * span), _RATIOS)
    for _ in range(_PASSES):
        lengths, ratios = (np.geomspace(*ends, _GRID) for ends in box)
        loss, speed = _surface(increments / scale, steps, beta1, lengths, ratios, through_momentum)
        inside, dimensions = _accepted(loss, increments / scale)
        box = (_around(lengths, inside, axis=1), _around(ratios, inside, axis=0))
    at = np.unravel_index(loss.argmin(), loss.shape)
    factor = lengths[:, None] / (1 + ratios[None, :])
    length, ratio = np.broadcast_arrays(lengths[:, None], ratios[None, :])
    endless = bool(inside[-1].any()) and math.isclose(lengths[-1], _LONGEST * span)
    return UsefulRate(
        factor=_estimate(factor, inside, at, endless=endless),
        noise=_estimate(ratio, inside, at, endless=False),
        persistence=_estimate(length, inside, at, endless=endless),
        drift=math.sqrt(speed[at] * scale),
        span=int(span),
        dimensions=dimensions,
    )


def smoothed_drift(steps: Array, length: float, beta1: float) -> Array:
    """Covariance [T-1, T-1] of the increments of a drift of unit velocity that went through momentum, step by step.

    The velocity v(t) = r v(t-1) + sqrt(1 - r²) e(t), r = exp(-1 / length), becomes u(t) = b u(t-1) + (1 - b) v(t): an
    AR(2) process, whose covariances are a sum of those of two AR(1) processes, of r and of b.
    """
    r, b = math.exp(-1 / length), beta1
    if abs(r - b) < 1e-6:
        r += 1e-6  # the limit is finite
    own, other = (
        r * (1 - b) ** 2 / ((r - b) * (1 - r * b)),
        -b * (1 - r**2) * (1 - b) / ((r - b) * (1 - r * b) * (1 + b)),
    )
    covariance = own * walk_covariance(steps, r) + other * walk_covariance(steps, b)
    return np.diff(np.diff(covariance, axis=0), axis=1)


def _surface(
    increments: Array, steps: Array, beta1: float, lengths: Array, ratios: Array, through_momentum: bool
) -> tuple[Array, Array]:
    """-log L per dimension [lengths, ratios] at the best scale and noise, and drift² per step there.

    With A = drift(l) + rho walk and E the noise, S = a (A + r E). In the basis in which E is one and A diagonal,
    the best a for each r is a mean, so r alone is searched.
    """
    m = len(increments)
    walk = np.diff(np.diff(walk_covariance(steps, beta1), axis=0), axis=1) * (1 - beta1) / (1 + beta1)
    noise = 2 * np.eye(m) - np.eye(m, k=1) - np.eye(m, k=-1)
    root = np.linalg.inv(np.linalg.cholesky(noise))
    observed, whitened_walk = root @ increments @ root.T, root @ walk @ root.T
    constant = np.linalg.slogdet(noise)[1]
    loss, speed = np.empty((2, len(lengths), len(ratios)))
    for i, length in enumerate(lengths):
        whole = smoothed_drift(steps, length, beta1) if through_momentum else drift_covariance(steps, length)
        drift = root @ whole @ root.T
        values, vectors = np.linalg.eigh(drift + ratios[:, None, None] * whitened_walk)
        held = np.einsum("rji,jk,rki->ri", vectors, observed, vectors)
        top = values[:, -1:]
        spread = np.clip(values, 0, None)[:, None, :] / top[:, None] + np.maximum(_NOISES, 1e-12)[None, :, None]
        size = (held[:, None, :] / spread).mean(-1)
        losses = (m * np.log(size) + np.log(spread).sum(-1) + m + constant) / 2
        best = losses.argmin(1)
        loss[i] = losses[range(len(ratios)), best]
        speed[i] = size[range(len(ratios)), best] / top[:, 0]
    return loss, speed


def _accepted(loss: Array, increments: Array) -> tuple[Array, float]:
    """Which points of the grid the 95 % region holds, and the number of dimensions that the misfit allows."""
    m = len(increments)
    values = np.linalg.eigvalsh(increments)
    saturated = (np.log(np.maximum(values, 1e-9 * values[-1])).sum() + m) / 2
    freedom = m * (m + 1) // 2 - 4
    dimensions = freedom / (2 * max(loss.min() - saturated, 1e-9))
    inside = np.asarray(dimensions * (loss - loss.min()) <= student((1 + _LEVEL) / 2, freedom) ** 2 / 2)
    return inside, float(dimensions)


def _around(grid: Array, inside: Array, axis: int) -> tuple[float, float]:
    """The ends of what is inside, along the grid of which `axis` is the other, and one cell more on both sides."""
    found = np.flatnonzero(inside.any(axis))
    return float(grid[max(found[0] - 1, 0)]), float(grid[min(found[-1] + 1, len(grid) - 1)])


def _estimate(values: Array, inside: Array, at: tuple[np.intp, ...], *, endless: bool) -> Estimate:
    return Estimate(
        float(values[at]), float(values[inside].min()), math.inf if endless else float(values[inside].max())
    )
