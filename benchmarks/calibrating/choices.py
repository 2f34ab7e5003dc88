"""What `auto` chooses to write: of lines, of runs that stand still at their end, and of walks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from calibrating import walks
from calibrating.forecasts import BETA1, seen
from calibrating.row import Row
from calibrating.side import each
from driftline.forecast.choose import Choice, choose


def _chosen(
    cov: np.ndarray, steps: np.ndarray, directions: int, T: int, seed: int, *, drift: float = 0.0, still: int = 0
) -> Choice:
    """Of one run, which stands still for the last intervals."""
    moved = walks.increments(cov, directions, np.random.default_rng([seed, T, 4]), drift)
    return choose(seen(np.pad(moved, (0, still)), steps))


def rows(runs: int) -> Iterator[Row]:
    for T, before in ((5, "always"), (6, ""), (12, "")):
        steps = np.arange(T) * 50
        cov = walks.walk(steps, BETA1)
        said = [one.sentence for one in each(partial(_chosen, cov, steps, 2000, T, drift=20.0), runs)]
        worse = sum("worse" in one or "not reliably" in one for one in said)
        note = f"two-point is taken: {sum(one.startswith('two-point') for one in said) / runs:.0%}"
        what = f"almost perfect lines, {T} checkpoints: said that two-point did worse than holding"
        yield Row(what, before, worse, runs, at_most=0.05, note=note)
    steps = np.arange(21) * 50
    cov = walks.walk(steps[:-1], BETA1)
    far = sum(one.horizon > 0 for one in each(partial(_chosen, cov, steps, 2000, 21, still=1), runs))
    what = "driftless walks of 20 checkpoints and one equal to the last: two-point may go somewhere"
    yield Row(what, "always, without limit", far, runs, at_most=0.05)
    for T, directions in ((8, 300), (20, 300), (20, 100_000)):
        steps = np.arange(T) * 20
        cov = walks.walk(steps, BETA1)
        far = sum(one.horizon > 0 for one in each(partial(_chosen, cov, steps, directions, T), runs))
        what = f"driftless walks, {T} checkpoints 20 apart, {directions} directions: a forecast is recommended"
        yield Row(what, "", far, runs, at_most=0.05)
