"""What `auto` chooses to write: of lines, of runs that stand still at their end, and of walks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from calibrating import walks
from calibrating.forecasts import BETA1, seen
from calibrating.row import Row
from driftline.forecast.choose import choose


def _rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng([*seed, 4])


def rows(runs: int) -> Iterator[Row]:
    for T, before in ((5, "always"), (6, ""), (12, "")):
        steps = np.arange(T) * 50
        cov = walks.walk(steps, BETA1)
        said = [choose(seen(walks.increments(cov, 2000, _rng(seed, T), 20.0), steps)).sentence for seed in range(runs)]
        worse = sum("worse" in one or "not reliably" in one for one in said)
        note = f"two-point is taken: {sum(one.startswith('two-point') for one in said) / runs:.0%}"
        what = f"almost perfect lines, {T} checkpoints: said that two-point did worse than holding"
        yield Row(what, before, worse, runs, at_most=0.05, note=note)
    steps = np.arange(21) * 50
    cov = walks.walk(steps[:-1], BETA1)
    far = 0
    for seed in range(runs):
        still = np.pad(walks.increments(cov, 2000, _rng(seed, 21)), (0, 1))
        far += choose(seen(still, steps)).horizon > 0
    what = "driftless walks of 20 checkpoints and one equal to the last: two-point may go somewhere"
    yield Row(what, "always, without limit", far, runs, at_most=0.05)
    for T, directions in ((8, 300), (20, 300), (20, 100_000)):
        steps = np.arange(T) * 20
        cov = walks.walk(steps, BETA1)
        far = sum(
            choose(seen(walks.increments(cov, directions, _rng(seed, T)), steps)).horizon > 0 for seed in range(runs)
        )
        what = f"driftless walks, {T} checkpoints 20 apart, {directions} directions: a forecast is recommended"
        yield Row(what, "", far, runs, at_most=0.05)
