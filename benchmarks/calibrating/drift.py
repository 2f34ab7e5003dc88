"""The test for drift: walks that are called linear, and lines that are not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from calibrating import walks
from calibrating.row import Row
from driftline.linearity.drift import LEVEL, drift_test
from driftline.linearity.statistics import gram_of_increments

BETA1 = 0.9
_DRAWS = 399
_CLOSE = ((5, 1, "17 to 32 %"), (6, 2, "17 to 32 %"), (7, 3, "17 to 32 %"), (7, 10, "17 to 32 %"), (9, 5, "17 to 32 %"))
_POWER = ((300, ((6, 0.27), (10, 0.19), (20, 0.135))), (100_000, ((6, 0.068), (10, 0.043), (20, 0.030))))
_FAR = 100  # steps between checkpoints that share no momentum to speak of


def found(
    cov: np.ndarray, steps: np.ndarray, directions: int, seed: int, *, drift: float = 0.0, beta1: float = BETA1
) -> bool:
    """Whether drift is found in one simulated run."""
    rng = np.random.default_rng([seed, len(steps), directions])
    gram = gram_of_increments(walks.increments(cov, directions, rng, drift))
    test = drift_test(gram, steps, steps.astype(float), beta1, draws=_DRAWS, seed=seed)
    return test is not None and test.found


def rows(runs: int) -> Iterator[Row]:
    for T, gap, before in _CLOSE:
        steps = np.arange(T) * gap
        cov = walks.walk(steps, BETA1)
        hits = sum(found(cov, steps, 300, seed) for seed in range(runs))
        what = f"driftless walks, {T} checkpoints {gap} apart, 300 directions: drift found"
        yield Row(what, before, hits, runs, at_most=LEVEL)
    for directions, cases in _POWER:
        for T, ratio in cases:
            steps = np.arange(T) * _FAR
            cov = walks.walk(steps, BETA1)
            hits = sum(found(cov, steps, directions, seed, drift=ratio) for seed in range(runs))
            what = f"drift of {ratio} of the noise per interval, {T} checkpoints, {directions} directions: drift found"
            yield Row(what, "80 %", hits, runs, at_least=0.7)
