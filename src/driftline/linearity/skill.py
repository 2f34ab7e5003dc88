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
    gain, size = _forms(gram, *_damping(clock))
    return _factor(gain, size)


def held_out_skill(gram: Array, clock: Array) -> dict[str, Array]:
    """Skill of each line on the last quarter of the checkpoints, forecast from those before.

    Squared errors are summed over those targets; NaN where the run does not move there.

    Args:
        gram: [..., T, T]; leading axes are independent runs.
    """
    T = clock.size
    cutoff = max(T - max(T // 4, 1), 2)
    seen, last, targets = clock[:cutoff], cutoff - 1, np.arange(cutoff, T)

    def misses(method) -> Array:
        b = np.zeros((targets.size, T))
        b[:, :cutoff] = method(seen, clock[targets])
        b[np.arange(targets.size), targets] -= 1
        return b

    still, line, fitted = misses(hold), misses(two_point), misses(least_squares)
    step = line - still  # a damped line misses by still + factor * step
    damped = (np.pad(form, (0, T - cutoff)) for form in _damping(seen))
    forms = (line.T @ line, fitted.T @ fitted, still.T @ step, step.T @ step, *damped)
    straight, least, across, along, gain, size = _forms(gram, *forms)
    # exactly 0 where the run stands still, so not by a form
    base = (gram[..., targets, targets] - 2 * gram[..., targets, last] + gram[..., last, last][..., None]).sum(-1)
    factor = _factor(gain, size)
    errors = {
        "two-point": straight,
        "least-squares": least,
        "damped": base + 2 * factor * across + factor**2 * along,
    }
    with np.errstate(invalid="ignore", divide="ignore"):
        return {name: np.where(base > 0, 1 - error / base, np.nan) for name, error in errors.items()}


def _forms(gram: Array, *forms: Array) -> Array:
    """[forms, ...]: the sums of the Gram's entries, each times that of a form [T, T]; the Gram is read once for all."""
    T = gram.shape[-1]
    return np.moveaxis(gram.reshape(*gram.shape[:-2], T * T) @ np.stack(forms, -1).reshape(T * T, len(forms)), -1, 0)


def _damping(clock: Array) -> tuple[Array, Array]:
    """The forms [T, T] of what `damping` gains by a slope, and of that slope's size."""
    reach = np.zeros((clock.size, clock.size))  # of each cutoff to each later checkpoint, in lengths of what was seen
    reach[1:] = np.triu((clock - clock[1:, None]) / (clock[1:, None] - clock[0]), 2)
    return reach - np.diag(reach.sum(1)), np.diag(np.square(reach).sum(1))


def _factor(gain: Array, size: Array) -> Array:
    return np.clip(np.divide(gain, size, out=np.zeros_like(gain), where=~(size <= 0)), 0, 1)
