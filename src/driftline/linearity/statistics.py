"""What the Gram matrix of a run says: increments, growth, drift against noise, rank.

Throughout: T checkpoints at clock values t_0 < ... < t_{T-1}; deltas D_t = W_t - W_0; Gram
G[i, j] = <D_i, D_j>, so row and column 0 are zero; increments I_k = W_{k+1} - W_k, k < T - 1, with
their own Gram C. The same functions serve weights, log-probs and activations.
"""

from __future__ import annotations

import math

import numpy as np

Array = np.ndarray


def increments_gram(gram: Array) -> Array:
    """C [T-1, T-1] from G [T, T]: inner products of the increments between neighbouring checkpoints."""
    return np.diff(np.diff(gram, axis=0), axis=1)


def increments_lengths(gram: Array) -> Array:
    """Lengths [T-1] of the increments, from G [T, T]."""
    return np.sqrt(np.clip(np.diag(increments_gram(gram)), 0, None))


def rebased(gram: Array, rows: Array) -> Array:
    """G of some of the checkpoints, deltas counted from the first of them."""
    part = gram[np.ix_(rows, rows)]
    return part - part[:1] - part[:, :1] + part[0, 0]


def gram_of_increments(increments: Array) -> Array:
    """G [T, T] from C [T-1, T-1]; the inverse of `increments_gram`."""
    gram = np.zeros((increments.shape[0] + 1,) * 2)
    gram[1:, 1:] = increments.cumsum(0).cumsum(1)
    return gram


def cosines(increments: Array) -> Array:
    """Cosines between increments; 0 with an increment of length 0."""
    norms = np.sqrt(np.clip(np.diag(increments), 0, None))
    scale = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    return increments * scale[:, None] * scale[None, :]


def optimizer_memory(beta1: float) -> float:
    """Steps after which the optimizer's momentum has decayed to 5 %: ln .05 / ln beta1 (28 for .9)."""
    return math.log(0.05) / math.log(beta1) if beta1 > 0 else 0.0


def far_pairs(steps: Array, memory: float) -> tuple[Array, Array]:
    """Pairs k < l of increments with a whole interval and at least `memory` steps between them; may be empty."""
    k, l = np.triu_indices(len(steps) - 1, 2)
    far = steps[l] - steps[k + 1] >= memory
    return k[far], l[far]


def separated_pairs(steps: Array, memory: float, at_least: int = 1) -> tuple[Array, Array]:
    """Pairs k < l of increments with a whole interval and at least `memory` steps between them.

    Where fewer than `at_least` pairs are that far apart, those with a whole interval between; the null,
    which has the same momentum, allows for what they still share. Index arrays; empty below four
    checkpoints.
    """
    far = far_pairs(steps, memory)
    return far if far[0].size >= at_least else np.triu_indices(len(steps) - 1, 2)


def mean_cosine(increments: Array, pairs: tuple[Array, Array]) -> tuple[float, float]:
    """Mean and standard deviation of the increments' cosine over `pairs`; NaN without pairs."""
    values = cosines(increments)[pairs]
    if values.size == 0:
        return math.nan, math.nan
    return float(values.mean()), float(values.std(ddof=1)) if values.size > 1 else math.nan


def line_r2(x: Array, y: Array) -> Array:
    """R² of the least-squares line with intercept of `y` [..., T] on `x` [T]; NaN where y is constant."""
    x = x - x.mean()
    y = y - y.mean(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.clip((y @ x) ** 2 / ((x @ x) * (y * y).sum(-1)), 0, 1)


def growth_exponent(gram: Array, clock: Array) -> tuple[float, float]:
    """Slope of log ||D_t|| on log(t - t_0) over t >= 1, and its regression standard error.

    1/2 for a walk, 1 for a line. The standard error is that of ordinary least squares: neighbouring
    norms share their past, so read it as a lower bound.
    """
    norms = np.sqrt(np.clip(np.diag(gram)[1:], 0, None))
    moved = norms > 0
    if moved.sum() < 2:
        return math.nan, math.nan
    x, y = np.log(clock[1:] - clock[0])[moved], np.log(norms[moved])
    x = x - x.mean()
    slope = float(x @ y / (x @ x))
    residual = y - y.mean() - slope * x
    error = math.sqrt(residual @ residual / (x.size - 2) / (x @ x)) if x.size > 2 else math.nan
    return slope, error


def drift_and_noise(gram: Array, clock: Array, pairs: tuple[Array, Array]) -> tuple[float, float]:
    """Norm of the drift per unit of clock, and noise-to-drift ratio per (mean) interval.

    Separated increments share the drift only, so drift² is the mean of <I_k, I_l> / (dt_k dt_l) over
    them; what else the increments hold is noise. The ratio is infinite where no drift is found.
    """
    increments, dt = increments_gram(gram), np.diff(clock)
    if pairs[0].size == 0:
        return math.nan, math.nan
    drift_square = float(np.mean(increments[pairs] / (dt[pairs[0]] * dt[pairs[1]])))
    noise_square = float(np.mean(np.diag(increments) - drift_square * dt**2))
    if drift_square <= 0:
        return 0.0, math.inf
    return math.sqrt(drift_square), math.sqrt(max(noise_square, 0.0) / drift_square) / float(dt.mean())


def rank_one(gram: Array, clock: Array) -> tuple[float, float]:
    """Share of the largest eigenvalue of G in its trace, and R² on the clock of its coefficients.

    Uncentred, as RELEX has it (arXiv 2605.21468): the coefficients are those of the deltas on the
    first principal direction through W_0, W_0's own (zero) included.
    """
    trace = float(np.trace(gram))
    if not trace > 0:
        return math.nan, math.nan
    values, vectors = np.linalg.eigh(gram)
    return float(values[-1] / trace), float(line_r2(clock, vectors[:, -1]))
