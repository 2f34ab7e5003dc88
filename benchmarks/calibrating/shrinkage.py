"""Drift without a signal: AdamW on gradients whose mean is zero, as trainers run it, step by step.

Weights are many small matrices of standard deviation .03, and gains of 1 that are not decayed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
from numba import njit

from calibrating.row import Row
from calibrating.side import each
from driftline.linearity.drift import LEVEL, drift_test, without_start
from driftline.linearity.statistics import increments_lengths

Array = np.ndarray

RATE, BETA1, BETA2, DECAY = 1e-5, 0.9, 0.999, 0.1
_MOMENTS = tuple(np.float32(value) for value in (BETA1, 1 - BETA1, BETA2, 1 - BETA2))
_MATRICES = 20
_DRAWS = 199
_RARE = 0.01  # share of steps in which a rare gradient comes


@dataclass(frozen=True)
class Case:
    """One kind of run: weights, steps, checkpoints, the gradients' law, and their mean over their standard deviation."""

    weights: int
    steps: int
    checkpoints: int
    gradients: str = "even"
    decay: float = DECAY
    mean: float = 0.0

    @property
    def at(self) -> Array:
        return np.arange(self.checkpoints) * (self.steps // (self.checkpoints - 1))


@njit(cache=True, fastmath=True)
def _update(w: Array, m: Array, v: Array, g: Array, decay: Array, rate: float, first: float, second: float) -> None:
    """One step of AdamW; `first` and `second` are the corrections of the moments' bias."""
    kept1, new1, kept2, new2 = _MOMENTS
    for i in range(w.size):
        m[i] = kept1 * m[i] + new1 * g[i]
        v[i] = kept2 * v[i] + new2 * g[i] * g[i]
        w[i] -= rate * (m[i] / first / (np.sqrt(v[i] / second) + np.float32(1e-8)) + decay[i] * w[i])


def trained(case: Case, seed: int) -> tuple[Array, Array]:
    """Gram [T, T] of one run's deltas, and of their parts along the first weights of each tensor that shrinks."""
    rng = np.random.Generator(np.random.SFC64(seed))
    n = case.weights
    gains = n // 1000
    w = np.float32(0.03) * rng.standard_normal(n, np.float32)
    w[:gains] = 1
    decay = np.full(n, case.decay, np.float32)
    decay[:gains] = 0
    m, v = np.zeros((2, n), np.float32)
    mean = np.float32(case.mean) * rng.standard_normal(n, np.float32)
    saved = [w.astype(np.float64)]
    for step in range(1, case.steps + 1):
        g = _gradients(case.gradients, rng.random(n, np.float32)) + mean
        _update(w, m, v, g, decay, np.float32(RATE), np.float32(1 - BETA1**step), np.float32(1 - BETA2**step))
        if step in case.at:
            saved.append(w.astype(np.float64))
    W = np.stack(saved)
    cuts = np.unique([0, *np.linspace(gains, n, _MATRICES + 1).astype(int)])
    part = np.zeros((len(W), len(W)))
    for first, last in itertools.pairwise(cuts):
        start = W[0, first:last]
        along = (W[:, first:last] - start) @ start
        part += np.outer(along, along) / (start @ start) * (along[-1] < 0)
    return (W - W[0]) @ (W - W[0]).T, part


def _gradients(law: str, uniform: Array) -> Array:
    """Of mean 0 and about unit size: without skew; of skewness 2, as an exponential's; or of 10, rare and large."""
    if law == "even":
        return np.float32(3**0.5) * (2 * uniform - 1)
    if law == "skewed":
        return -np.log1p(-uniform) - 1
    return ((uniform < _RARE) - np.float32(_RARE)) * np.float32(_RARE**-0.5)


class Told(NamedTuple):
    """Of how many runs what was said: of all that moved, without the part along the first weights, of the start."""

    whole: int
    left: int
    linear: int
    start: int  # found, but said to be perhaps of the start


def _said(case: Case, seed: int) -> Told:
    """Of one run."""
    gram, part = trained(case, seed)
    assert (increments_lengths(gram - part) > 0).all()
    clock = case.at.astype(float)
    whole, left = (drift_test(one, case.at, clock, BETA1, draws=_DRAWS, seed=seed) for one in (gram, gram - part))
    assert whole is not None
    assert left is not None
    later = replace(left, later=without_start(gram - part, case.at, clock, BETA1)) if left.found else None
    return Told(whole.found, left.found, left.linear, later is not None and later.of_the_start)


def _told(case: Case, runs: int) -> Told:
    return Told(*map(sum, zip(*each(partial(_said, case), runs), strict=True)))


def rows(runs: int) -> Iterator[Row]:
    few = max(runs // 5, 12)
    for weights, filed, count in ((10_000, "17 %", runs), (100_000, "", few), (1_000_000, "100 %", max(runs // 30, 4))):
        case = Case(weights, 1000, 11)
        told = _told(case, count)
        note = f"with the part along the first weights: {told.whole / count:.0%}"
        what = f"AdamW's decay of .1 on pure noise, {weights} weights, {case.steps} steps: drift found"
        yield Row(what, filed, told.left, count, at_most=LEVEL, note=note)
    for weights, mean in ((10_000, 0.006), (100_000, 0.0035)):
        told = _told(Case(weights, 1000, 11, decay=0.0, mean=mean), few)  # decay would be drift in the whole, too
        what = f"Adam without decay, mean gradient {mean} of the noise, {weights} weights, 1000 steps: drift found"
        note = f"said to be perhaps of the start: {told.start / few:.0%}"
        yield Row(what, f"{told.whole / few:.0%}", told.left, few, at_least=told.whole / few - 0.1, note=note)
    for weights, law, before in (
        (10_000, "skewed", "80 to 100 %"),
        (100_000, "skewed", "80 to 100 %"),
        (10_000, "rare", "80 to 100 %"),
    ):
        told = _told(Case(weights, 400, 21, law, decay=0.0), few)
        note = f"found: {told.left / few:.0%}; said to be perhaps of the start: {told.start / few:.0%}"
        promised = LEVEL if law == "skewed" else None
        note += "" if promised else "; cannot be told from a signal"
        what = f"Adam from its first step on {law} gradients of mean 0, {weights} weights, 400 steps: linear"
        yield Row(what, before, told.linear, few, at_most=promised, note=note)
