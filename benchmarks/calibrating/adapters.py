"""Adapters whose factors walk at random: their product has curvature, which a walk of weights has not."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from calibrating.drift import BETA1
from calibrating.row import Row
from calibrating.side import each
from driftline.linearity.drift import LEVEL, drift_test
from driftline.linearity.statistics import gram_of_increments

_STEPS = np.arange(16) * 20
_SIZE, _RANK, _MATRICES = 48, 8, 2


def deltas(seed: int, rate: float) -> np.ndarray:
    """B A [T - 1, weights] less that of the first checkpoint; updates of both are noise with momentum, of size `rate`.

    Args:
        rate: in units of A's first values.
    """
    rng = np.random.default_rng([seed, 9])
    factors = [np.stack([rng.standard_normal((_SIZE, _RANK)) for _ in range(_MATRICES)])]  # A, transposed
    factors.append(np.zeros_like(factors[0]))  # B
    updates = [np.zeros_like(factors[0]) for _ in factors]
    saved = []
    for step in range(int(_STEPS[-1]) + 1):
        if step in _STEPS:
            saved.append(np.einsum("mir,mjr->mij", factors[1], factors[0]).ravel())
        for i, update in enumerate(updates):
            updates[i] = BETA1 * update + rng.standard_normal(update.shape)
            factors[i] = factors[i] + rate * np.sqrt(1 - BETA1**2) * updates[i]
    return np.stack(saved)


def _found(rate: float, seed: int) -> bool:
    moves = np.diff(deltas(seed, rate), axis=0)
    test = drift_test(gram_of_increments(moves @ moves.T), _STEPS, _STEPS.astype(float), BETA1, draws=399, seed=seed)
    return test is not None and test.found


def rows(runs: int) -> Iterator[Row]:
    for rate, before in ((0.003, ""), (0.03, "10 to 13 %"), (0.3, "10 to 13 %")):
        hits = sum(each(partial(_found, rate), runs))
        moved = rate * np.sqrt(_STEPS[-1] * (1 + BETA1) / (1 - BETA1))
        what = f"LoRA, noise alone, {len(_STEPS)} checkpoints, A moves {moved:.2g} times its first length: drift found"
        yield Row(what, before, hits, runs, at_most=LEVEL, fails=moved > 1)
