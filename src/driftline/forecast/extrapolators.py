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

Array = np.ndarray
Extrapolator = Callable[[Array, Array, float], Array]


def hold(clock: Array, gram: Array, target: float) -> Array:
    """The last checkpoint: what every other method is scored against."""
    return skill.hold(clock, target)


def mean(clock: Array, gram: Array, target: float) -> Array:
    """The plain average of the checkpoints."""
    return np.full(clock.size, 1 / clock.size)


def ema(clock: Array, gram: Array, target: float) -> Array:
    """Their exponential average, with a time constant of two mean intervals."""
    weight = np.exp((clock - clock[-1]) / (2 * np.diff(clock).mean()))
    return weight / weight.sum()


def two_point(clock: Array, gram: Array, target: float) -> Array:
    """The line through the first and the last (paper, Eq. 4)."""
    return skill.two_point(clock, target)


def least_squares(clock: Array, gram: Array, target: float) -> Array:
    """The ordinary least-squares line with intercept, evaluated at the target."""
    return skill.least_squares(clock, target)


def anchored(clock: Array, gram: Array, target: float) -> Array:
    """The slope of least squares, started at the last checkpoint."""
    centred = clock - clock.mean()
    return skill.hold(clock, target) + (target - clock[-1]) * centred / (centred @ centred)


def damped(clock: Array, gram: Array, target: float) -> Array:
    """The two-point slope from the last checkpoint on, times the factor that back-tests of these checkpoints fit."""
    last = skill.hold(clock, target)
    return last + float(skill.damping(gram, clock)) * (skill.two_point(clock, target) - last)


def relex(clock: Array, gram: Array, target: float, rank: int = 1) -> Array:
    """RELEX (arXiv 2605.21468): the deltas' uncentred rank-r subspace, and a line through its coefficients.

    The coefficients on direction k are sigma_k u_k; a line through them at the target is h sigma_k u_k with
    h the least-squares vector; rebuilt from the deltas, that is D̂ = sum_k (h u_k) sum_t u_k[t] D_t. So the
    vector is h projected on the leading eigenvectors of G. Fitted on the real clock, not on row numbers.
    """
    _, vectors = np.linalg.eigh(gram)
    leading = vectors[:, -rank:]
    a = leading @ (leading.T @ skill.least_squares(clock, target))
    a[0] = 0.0
    a[0] = 1 - a.sum()
    return a


@dataclass(frozen=True)
class Method:
    """A named extrapolator, how finely it is fitted by default, and whether it looks at the Gram at all."""

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
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(known)}"
        raise InputError(f"--method {name!r} is unknown: {hint}")
    return known[name]
