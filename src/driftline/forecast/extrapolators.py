"""Forecasts that are linear in the checkpoints: Ŵ(target) = sum_t a_t W_t, sum_t a_t = 1.

An extrapolator is a function (clock [T], Gram of the deltas [T, T], target) -> a [T]. It sees the
observed checkpoints only; the Gram may be of one tensor, a group or the whole run. ExPO
(arXiv 2404.16792) is two-point with alpha = 1 + its own alpha.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from driftline.errors import InputError
from driftline.forecast.gaussian import blup
from driftline.linearity import skill
from driftline.linearity.skill import Target

Array = np.ndarray
Extrapolator = Callable[[Array, Array, Target], Array]


def hold(clock: Array, gram: Array, target: Target) -> Array:
    """The last checkpoint: what every other method is scored against."""
    return skill.hold(clock, target)


def mean(clock: Array, gram: Array, target: Target) -> Array:
    """The plain average of the checkpoints."""
    return np.full((*np.shape(target), clock.size), 1 / clock.size)


def ema(clock: Array, gram: Array, target: Target) -> Array:
    """Their exponential average, with a time constant of two mean intervals."""
    weight = np.exp((clock - clock[-1]) / (2 * np.diff(clock).mean()))
    return np.tile(weight / weight.sum(), (*np.shape(target), 1))


def two_point(clock: Array, gram: Array, target: Target) -> Array:
    """The line through the first and the last (paper, Eq. 4)."""
    return skill.two_point(clock, target)


def least_squares(clock: Array, gram: Array, target: Target) -> Array:
    """The ordinary least-squares line with intercept, evaluated at the target."""
    return skill.least_squares(clock, target)


def anchored(clock: Array, gram: Array, target: Target) -> Array:
    """The slope of least squares, started at the last checkpoint."""
    centred = clock - clock.mean()
    return skill.hold(clock, target) + np.multiply.outer(target - clock[-1], centred) / (centred @ centred)


def damped(clock: Array, gram: Array, target: Target) -> Array:
    """The two-point slope from the last checkpoint on, times the factor that back-tests of these checkpoints fit."""
    last = skill.hold(clock, target)
    return last + float(skill.damping(gram, clock)) * (skill.two_point(clock, target) - last)


def relex(clock: Array, gram: Array, target: Target, rank: int = 1) -> Array:
    """RELEX (arXiv 2605.21468): the deltas' uncentred rank-r subspace, and a line through its coefficients.

    The coefficients on direction k are sigma_k u_k; a line through them at the target is h sigma_k u_k with
    h the least-squares vector; rebuilt from the deltas, that is D̂ = sum_k (h u_k) sum_t u_k[t] D_t. So the
    vector is h projected on the leading eigenvectors of G. Fitted on the real clock, not on row numbers.
    """
    return _within(gram, skill.least_squares(clock, target), rank)


def reconstruction(gram: Array, row: int, rank: int = 1) -> Array:
    """The observed checkpoint of `row`, as far as the deltas' rank-r subspace holds it (RELEX's reconstruction)."""
    return _within(gram, np.eye(gram.shape[0])[row], rank)


def _within(gram: Array, a: Array, rank: int) -> Array:
    """`a` projected on the leading eigenvectors of the Gram; the first checkpoint, whose delta is 0, takes the rest."""
    _, vectors = np.linalg.eigh(gram)
    leading = vectors[:, -rank:]
    projected = a @ leading @ leading.T
    projected[..., 0] = 0.0
    projected[..., 0] = 1 - projected.sum(-1)
    return projected


@dataclass(frozen=True)
class Method:
    """A named extrapolator, how finely it is fitted by default, and whether it looks at the Gram at all.

    `extrapolate` takes a target, or several [n], and returns the coefficients [T], or [n, T].
    """

    name: str
    extrapolate: Extrapolator
    per: str = "run"
    uses_gram: bool = False


def methods(*, beta1: float = 0.9, rank: int = 1) -> dict[str, Method]:
    """Every linear method by name.

    Fitted over the whole run by default, where the figures that are fitted are most certain; RELEX per
    tensor, as published.
    """
    listed = [
        Method("hold", hold),
        Method("mean", mean),
        Method("ema", ema),
        Method("two-point", two_point),
        Method("least-squares", least_squares),
        Method("anchored", anchored),
        Method("damped", damped, uses_gram=True),
        Method("blup", partial(blup, beta1=beta1), uses_gram=True),
        Method("relex", partial(relex, rank=rank), per="tensor", uses_gram=True),
    ]
    return {method.name: method for method in listed}


def method_named(name: str, *, beta1: float = 0.9, rank: int = 1) -> Method:
    """The method of that name.

    Raises:
        InputError: no such method; names the nearest.
    """
    known = methods(beta1=beta1, rank=rank)
    if name not in known:
        listed = ["auto", *known, "next", "alpharl"]
        near = difflib.get_close_matches(name, listed, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(listed)}"
        raise InputError(f"--method {name!r} is unknown: {hint}")
    return known[name]
