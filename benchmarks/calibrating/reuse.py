"""Updates that resemble each other because rollouts are reused: what is said where their memory is given, and where not."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from calibrating import walks
from calibrating.drift import BETA1, found, limit_of
from calibrating.row import Row
from calibrating.side import each
from driftline.linearity.drift import LEVEL
from driftline.linearity.statistics import optimizer_memory

_ALIKE = 0.8  # the part of an update's noise that all updates on the same rollouts share
_ONE_BATCH = "all updates of the run share their rollouts"


def reused(updates: np.ndarray, times: int) -> np.ndarray:
    """Updates [S, J] of independent noise, as they are where `times` neighbours share rollouts."""
    J = updates.shape[1]
    shared = np.zeros((J, -(-J // times)))
    shared[np.arange(J), np.arange(J) // times] = np.sqrt(_ALIKE)
    return np.hstack([updates @ shared, np.sqrt(1 - _ALIKE) * updates])


def told(times: int) -> float:
    """The beta1 that remembers as long as momentum and the reused rollouts together."""
    return float(0.05 ** (1 / (optimizer_memory(BETA1) + times)))


def rows(runs: int) -> Iterator[Row]:
    for times, T, gap, before in ((4, 16, 10, ""), (32, 16, 10, "8 to 100 %"), (32, 24, 1, "8 to 100 %")):
        steps = np.arange(T) * gap
        cov = walks.covariance(reused(walks.momentum(int(steps[-1]), BETA1), times), steps)
        whose = f"driftless walks, {times} updates on the same rollouts, {T} checkpoints {gap} apart"
        one_batch = bool(steps[-1] < times)
        for directions in (300, 100_000):
            hits = sum(each(partial(found, cov, steps, directions, beta1=told(times)), runs))
            what = f"{whose}, --beta1 {told(times):.3f} given, {directions} directions: drift found"
            yield Row(what, before, hits, runs, at_most=LEVEL, note=_ONE_BATCH if one_batch else "", fails=one_batch)
        few = max(runs // 3, 1)
        held = [limit for limit in each(partial(limit_of, cov, steps), few) if limit is not None]
        silent = sum(limit >= 0.99 for limit in held)
        note = f"drift found, with its limit: {(len(held) - silent) / few:.0%}"
        what = f"{whose}, nothing given, 100000 directions: drift found without a word of its limit"
        yield Row(what, "no limit was given", silent, few, at_most=LEVEL, note=note)
