"""The test for drift: walks that are called linear, and lines that are not."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from calibrating import walks
from calibrating.row import Row
from calibrating.side import each
from driftline.checkpoints.momentum import Momentum
from driftline.linearity.drift import LEVEL, breakdown, drift_test
from driftline.linearity.statistics import gram_of_increments

BETA1 = 0.9
_DRAWS = 399
_CLOSE = ((5, 1, "17 to 32 %"), (6, 2, "17 to 32 %"), (7, 3, "17 to 32 %"), (7, 10, "17 to 32 %"), (9, 5, "17 to 32 %"))
_POWER = (  # the last: share found before the repair, measured with this command
    (300, ((6, 0.27, 0.73), (10, 0.19, 0.82), (20, 0.135, 0.85))),
    (100_000, ((6, 0.068, 0.88), (10, 0.043, 0.83), (20, 0.030, 0.88))),
)
_FAR = 100  # steps between checkpoints that share no momentum to speak of


def found(
    cov: np.ndarray, steps: np.ndarray, directions: int, seed: int, *, drift: float = 0.0, beta1: float = BETA1
) -> bool:
    """Whether drift is found in one simulated run."""
    rng = np.random.default_rng([seed, len(steps), directions])
    gram = gram_of_increments(walks.increments(cov, directions, rng, drift))
    test = drift_test(gram, steps, steps.astype(float), beta1, draws=_DRAWS, seed=seed)
    return test is not None and test.found


def withstood(gram: np.ndarray, steps: np.ndarray) -> float | None:
    """The momentum up to which the verdict on a run holds; None where drift is not found."""
    clock = steps.astype(float)
    test = drift_test(gram, steps, clock, BETA1, draws=_DRAWS)
    return breakdown(gram, steps, clock, BETA1) if test is not None and test.found else None


def limit_of(cov: np.ndarray, steps: np.ndarray, seed: int) -> float | None:
    """The momentum up to which the verdict on one simulated run in many directions holds."""
    return withstood(gram_of_increments(walks.increments(cov, 100_000, np.random.default_rng([seed, 5]))), steps)


def rows(runs: int) -> Iterator[Row]:
    for T, gap, filed in _CLOSE:
        steps = np.arange(T) * gap
        cov = walks.walk(steps, BETA1)
        hits = sum(each(partial(found, cov, steps, 300), runs))
        what = f"driftless walks, {T} checkpoints {gap} apart, 300 directions: drift found"
        yield Row(what, filed, hits, runs, at_most=LEVEL)
    yield from _memory(runs)
    for directions, cases in _POWER:
        for T, ratio, before in cases:
            steps = np.arange(T) * _FAR
            cov = walks.walk(steps, BETA1)
            hits = sum(each(partial(found, cov, steps, directions, drift=ratio), runs))
            what = f"drift of {ratio} of the noise per interval, {T} checkpoints, {directions} directions: drift found"
            yield Row(what, f"{before:.0%}", hits, runs, at_least=before - 0.1)
    yield from _negligible(runs)


def _memory(runs: int) -> Iterator[Row]:
    """Walks whose memory is longer than is assumed, and what is said where it is given; the verdict's breakdown."""
    steps = np.arange(12) * 10
    for true, ema, before in ((0.95, 0.0, "37 to 100 %"), (0.99, 0.0, "100 %"), (0.9, 0.98, "100 %")):
        # averages are as old as the run; the optimizer's momentum has settled
        updates = walks.momentum(int(steps[-1]), true)
        if ema:
            updates = walks.momentum(int(steps[-1]), ema, before=0) @ updates
        cov = walks.covariance(updates, steps)
        told = Momentum(true, "--beta1", ema).effective
        named = f"--beta1 {true}" + (f" --ema {ema}" if ema else "")
        for directions in (300, 100_000):
            hits = sum(each(partial(found, cov, steps, directions, beta1=told), runs))
            yield Row(
                f"driftless walks of {named}, given, {directions} directions: drift found", before, hits, runs, LEVEL
            )
    cov = walks.walk(steps, 0.95)
    held = [limit for limit in each(partial(limit_of, cov, steps), runs) if limit is not None]
    beyond = sum(limit > 0.95 for limit in held)
    note = f"said to be linear, without its limit: {len(held) / runs:.0%}"
    what = "driftless walks of beta1 = .95, not given: said to hold beyond .95"
    yield Row(what, "no limit was given", beyond, runs, at_most=LEVEL, note=note)


def _negligible(runs: int) -> Iterator[Row]:
    steps = np.arange(20) * _FAR
    cov = walks.walk(steps, BETA1)
    detected, linear = (sum(said) for said in zip(*each(partial(_said, cov, steps), runs), strict=True))
    what = "a cosine of .001 in 1000000 directions, 20 checkpoints: linear"
    note = f"detectable, negligible: {(detected - linear) / runs:.0%}"
    yield Row(what, "nearly all", linear, runs, at_most=LEVEL, note=note)


def _said(cov: np.ndarray, steps: np.ndarray, seed: int) -> tuple[bool, bool]:
    """Whether drift is found in one run, and whether it is called linear."""
    gram = gram_of_increments(walks.increments(cov, 1_000_000, np.random.default_rng([seed, 6]), 0.03))
    test = drift_test(gram, steps, steps.astype(float), BETA1, draws=_DRAWS, seed=seed)
    return test is not None and test.found, test is not None and test.linear
