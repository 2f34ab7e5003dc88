"""Drift without a signal that is not told from one: what the leaving out of shrinkage and of the start does not touch.

These rows promise nothing of what is found; docs/limits.md says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from calibrating.row import Row
from calibrating.shrinkage import BETA1, BETA2
from calibrating.side import each
from driftline.linearity.drift import LEVEL, drift_test, without_start

Array = np.ndarray

_STEPS = np.arange(21) * 20
_DRAWS = 199
_MATRICES, _WIDTH, _RANK = 6, 48, 4
_WEIGHTS, _DIRECTIONS, _OFTEN = 4000, 20, 0.05


def adapters(rate: float, seed: int) -> Array:
    """Gram of the products B·A of adapters that Adam trains on pure noise, B from zero."""
    rng = np.random.default_rng(seed)
    a = rng.uniform(-1, 1, (_MATRICES, _RANK, _WIDTH)) * _WIDTH**-0.5
    b = np.zeros((_MATRICES, _WIDTH, _RANK))
    moments = [np.zeros_like(one) for one in (a, a, b, b)]
    saved = [np.zeros(_MATRICES * _WIDTH**2)]
    for step in range(1, int(_STEPS[-1]) + 1):
        a -= rate * _adam(moments[:2], rng.standard_normal(a.shape), step)
        b -= rate * _adam(moments[2:], rng.standard_normal(b.shape), step)
        if step in _STEPS:
            saved.append((b @ a).ravel())
    return _gram(np.array(saved))


def _adam(moments: list[Array], gradient: Array, step: int) -> Array:
    first, second = moments
    first += (1 - BETA1) * (gradient - first)
    second += (1 - BETA2) * (gradient**2 - second)
    return first / (1 - BETA1**step) / (np.sqrt(second / (1 - BETA2**step)) + 1e-8)


def clipped(size: float, seed: int) -> Array:
    """Gram of SGD with momentum on gradients of mean 0, clipped to length 1: noise of that length, and directions that all
    weights share, each large in one step of twenty and slightly the other way in the rest.
    """
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((_DIRECTIONS, _WEIGHTS)) / _WEIGHTS**0.5
    moving, now, saved = np.zeros(_WEIGHTS), np.zeros(_WEIGHTS), [np.zeros(_WEIGHTS)]
    for step in range(1, int(_STEPS[-1]) + 1):
        rare = (rng.random(_DIRECTIONS) < _OFTEN) - _OFTEN
        gradient = rng.standard_normal(_WEIGHTS) / _WEIGHTS**0.5 + size * rare @ shared
        moving = BETA1 * moving + (1 - BETA1) * gradient / max(1.0, float(np.linalg.norm(gradient)))
        now = now - moving
        if step in _STEPS:
            saved.append(now)
    return _gram(np.array(saved))


def _gram(deltas: Array) -> Array:
    return deltas @ deltas.T


def _said(run: Callable[[int], Array], seed: int) -> tuple[bool, bool, bool]:
    """Of one run: whether drift is found, called linear, and said to be perhaps of the start."""
    gram, clock = run(seed), _STEPS.astype(float)
    test = drift_test(gram, _STEPS, clock, BETA1, draws=_DRAWS, seed=seed)
    if test is None or not test.found:
        return False, False, False
    return True, test.linear, replace(test, later=without_start(gram, _STEPS, clock, BETA1)).of_the_start


def _row(what: str, filed: str, run: Callable[[int], Array], runs: int, promised: float | None) -> Row:
    found, linear, start = (sum(said) for said in zip(*each(partial(_said, run), runs), strict=True))
    note = f"found: {found / runs:.0%}; said to be perhaps of the start: {start / runs:.0%}"
    note += "" if promised else "; cannot be told from a signal"
    return Row(f"{what}: linear", filed, linear, runs, at_most=promised, note=note)


def rows(runs: int) -> Iterator[Row]:
    few = max(runs // 5, 20)
    for rate in (1e-3, 1e-2, 3e-2):
        what = f"adapters that Adam trains on pure noise at a rate of {rate}"
        yield _row(what, "10 to 13 %", partial(adapters, rate), few, LEVEL)
    for size in (1.0, 2.0):
        what = f"gradients of mean 0, clipped, with shared rare directions {size} as large as the noise"
        yield _row(what, "22 %", partial(clipped, size), few, None)
