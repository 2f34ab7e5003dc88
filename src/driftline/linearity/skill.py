"""Held-out skill of straight lines, from the Gram matrix alone.

A forecast is a vector a over the observed checkpoints with sum 1: Ŵ(s) = sum_t a_t W_t. With
b = a - e_s, whose sum is 0, its squared error against an observed checkpoint s is bᵀ G b: no weight
is read again. Skill is 1 - squared error / squared error of holding the last observed checkpoint.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray
Target = float | Array  # one target, or several [n]: then the vectors come as rows, [n, T]


def hold(clock: Array, target: Target) -> Array:
    """The last observed checkpoint."""
    return np.tile(np.eye(clock.size)[-1], (*np.shape(target), 1))


def two_point(clock: Array, target: Target) -> Array:
    """The line through the first and last observed checkpoints (paper, weight extrapolation)."""
    a = np.zeros((*np.shape(target), clock.size))
    a[..., -1] = (target - clock[0]) / (clock[-1] - clock[0])
    a[..., 0] = 1 - a[..., -1]
    return a


def least_squares(clock: Array, target: Target) -> Array:
    """The ordinary least-squares line with intercept, evaluated at the target."""
    centred = clock - clock.mean()
    return 1 / clock.size + np.multiply.outer(target - clock.mean(), centred) / (centred @ centred)


def damping(gram: Array, clock: Array) -> Array:
    """The factor, from 0 to 1, by which back-tests within these checkpoints scale the two-point slope.

    Least squares over every cutoff (at least 2 checkpoints seen) and every later checkpoint.

    Args:
        gram: [..., T, T]; leading axes are independent runs.
    """
    T = clock.size
    cutoff, target = np.triu_indices(T, 1)
    cutoff, target = cutoff[cutoff > 0], target[cutoff > 0]
    if cutoff.size == 0:
        return np.zeros(gram.shape[:-2])
    reach = (clock[target] - clock[cutoff]) / (clock[cutoff] - clock[0])
    norms = gram[..., cutoff, cutoff]
    size = norms @ reach**2
    gain = (gram[..., cutoff, target] - norms) @ reach
    return np.clip(np.divide(gain, size, out=np.zeros_like(gain), where=size > 0), 0, 1)


def held_out_skill(gram: Array, clock: Array) -> dict[str, Array]:
    """Skill of each line on the last quarter of the checkpoints, forecast from those before.

    Squared errors are summed over those targets; NaN where the run does not move there.

    Args:
        gram: [..., T, T]; leading axes are independent runs.
    """
    T = clock.size
    cutoff = max(T - max(T // 4, 1), 2)
    seen, targets = clock[:cutoff], range(cutoff, T)

    def misses(method) -> Array:
        b = np.zeros((len(targets), T))
        for row, target in zip(b, targets, strict=True):
            row[:cutoff] = method(seen, clock[target])
            row[target] -= 1
        return b

    def product(left: Array, right: Array) -> Array:
        return np.einsum("st,...tu,su->...", left, gram, right, optimize=True)

    still, line = misses(hold), misses(two_point)
    step = line - still  # a damped line misses by still + factor * step
    factor = damping(gram[..., :cutoff, :cutoff], seen)
    base = product(still, still)
    errors = {
        "two-point": product(line, line),
        "least-squares": product(misses(least_squares), misses(least_squares)),
        "damped": base + 2 * factor * product(still, step) + factor**2 * product(step, step),
    }
    with np.errstate(invalid="ignore", divide="ignore"):
        return {name: np.where(base > 0, 1 - error / base, np.nan) for name, error in errors.items()}
