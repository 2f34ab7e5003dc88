"""What a trainer's monitor logs of parameters that are followed at every step: pure noise, and straight runs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from calibrating.drift import BETA1
from calibrating.row import Row
from calibrating.side import each
from driftline.linearity.drift import LEVEL
from driftline.training.increments import Increments
from driftline.training.logged import LoggedFigures

_LOGS, _PARAMETERS, _BEFORE = 40, 400, 100
_AS_MUCH = 0.8  # drift to noise: the least that was logged of pure noise before


def logged(seed: int, gap: int, drift: float) -> list[dict[str, float]]:
    """Figures after every log, `gap` steps apart, of a run with so much drift, in units of the noise of an update."""
    rng = np.random.default_rng([seed, gap])
    direction = rng.standard_normal(_PARAMETERS)
    update, at = np.zeros(_PARAMETERS), np.zeros(_PARAMETERS)
    run, figures = Increments(np.empty((_LOGS, _PARAMETERS)), at.copy(), 0), LoggedFigures(BETA1)
    found = []
    for step in range(1 - _BEFORE, _LOGS * gap + 1):
        update = BETA1 * update + np.sqrt(1 - BETA1**2) * rng.standard_normal(_PARAMETERS)
        if step < 1:
            continue
        at = at + update + drift * direction
        if step % gap == 0:
            run.add(at.copy(), step, 1e-3)
            found.append(figures.of(run, lambda steps: np.full(1, 0.5)))
    return found


def rows(runs: int) -> Iterator[Row]:
    for gap in (1, 10):
        chanceless = much = ahead = lost = 0
        for found in each(partial(logged, gap=gap, drift=0.0), runs):
            chanceless += any("increment_cosine" in one and "null_increment_cosine" not in one for one in found)
            much += any(one.get("drift_to_noise", 0.0) > _AS_MUCH for one in found)
            ahead += any(one.get("recommended_horizon", 0.0) > 0 for one in found)
            lost += any(one.get("direction_lost", 0.0) > 0 for one in found)
        whose = f"pure noise with momentum, {_LOGS} logs {gap} steps apart"
        yield Row(f"{whose}: cosines without chance's beside them", "always", chanceless, runs, at_most=0.0)
        yield Row(f"{whose}: drift_to_noise above {_AS_MUCH} at some log", "100 %", much, runs, at_most=LEVEL)
        yield Row(f"{whose}: a horizon is recommended at some log", "", ahead, runs, at_most=LEVEL)
        yield Row(f"{whose}: warned that direction is lost", "", lost, runs, at_most=LEVEL)
    straight = each(partial(logged, gap=10, drift=0.2), runs)
    lost = sum(any(one.get("direction_lost", 0.0) > 0 for one in found) for found in straight)
    ahead = sum(found[-1].get("recommended_horizon", 0.0) > 0 for found in straight)
    whose = f"straight runs, {_LOGS} logs 10 steps apart"
    yield Row(f"{whose}: warned that direction is lost", "", lost, runs, at_most=LEVEL)
    yield Row(f"{whose}: a horizon is recommended at the last log", "", ahead, runs, at_least=0.9)
