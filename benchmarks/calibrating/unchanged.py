"""What `driftline watch` warns of where nothing happens, where the rate alone falls, and where drift fades away."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from calibrating import walks
from calibrating.drift import BETA1
from calibrating.row import Row
from calibrating.side import each
from calibrating.watching import CHANGE, CHECKPOINTS, warned
from driftline.linearity.drift import LEVEL


def _unchanged(runs: int) -> Iterator[Row]:
    """Nothing happens, or the rate alone falls: neither is a loss of direction, and no increment is longer for its rate."""
    steps, K = np.arange(CHECKPOINTS) * 20, CHECKPOINTS - 1
    cov = walks.walk(steps, BETA1)
    cosine = (1 + np.cos(np.pi * np.arange(K) / K)) / 2
    for directions, drift, falls in ((2000, 0.0, False), (300, 0.3, False), (2000, 1.0, False), (2000, 1.0, True)):
        rate = cosine if falls else np.ones(K)
        said = each(partial(_warned, cov, steps, rate, directions, drift), runs)
        whose = f"drift of {drift} of the noise, {directions} directions, {'cosine' if falls else 'constant'} rate"
        for kind in ("direction lost", "length"):
            yield Row(f"{whose}: warned of {kind}", "", sum(kind in one for one in said), runs, at_most=LEVEL)


def _warned(cov: np.ndarray, steps: np.ndarray, rate: np.ndarray, directions: int, drift: float, seed: int) -> set[str]:
    moved = walks.increments(cov, directions, np.random.default_rng([seed, 7]), drift)
    return warned(moved * np.outer(rate, rate), steps, rate)


def _faded(cov: np.ndarray, steps: np.ndarray, ways: np.ndarray, seed: int) -> set[str]:
    return warned(walks.increments(cov, 2000, np.random.default_rng([seed, 8]), ways), steps)


def _saturation(runs: int) -> Iterator[Row]:
    """Drift that fades from the middle on, halving every two intervals: the run has learned what it could."""
    steps, k = np.arange(CHECKPOINTS) * 20, np.arange(CHECKPOINTS - 1)
    cov = walks.walk(steps, BETA1)
    ways = 2.0 ** -(np.maximum(k - CHANGE + 6, 0) / 2)
    said = each(partial(_faded, cov, steps, ways), runs)
    hits = sum("direction lost" in one for one in said)
    what = "runs whose drift fades away: direction lost (before: a collapse)"
    yield Row(what, "97 %", hits, runs, note="true: no drift is left")


def rows(runs: int) -> Iterator[Row]:
    yield from _unchanged(runs)
    yield from _saturation(runs)
