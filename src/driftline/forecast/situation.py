"""What advice is told from: tests for drift in a run and its halves, its back-tests, its useful rate and its schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from driftline.checkpoints.configuration import learning_rates
from driftline.checkpoints.trajectory import Trajectory
from driftline.files.record import UNSET
from driftline.forecast import useful_rate
from driftline.forecast.ahead import ahead_of
from driftline.forecast.backtest import FEWEST_SEEN, measure
from driftline.forecast.observations import Observations
from driftline.forecast.record import BacktestRecord
from driftline.forecast.useful_rate import UsefulRate
from driftline.linearity.drift import DriftTest, breakdown, drift_test
from driftline.linearity.learning_rate import changed
from driftline.linearity.statistics import increments_gram, optimizer_memory, rebased

_LATE = 0.5  # the part of the run in which drift is looked for once more
FEWEST_LATE = 8  # checkpoints
_SURELY = 2.6  # standard errors by which the drift must have become weaker: one time in two hundred by chance
CONSTANT = 2.0  # learning rates that differ by less are as good as constant


@dataclass(frozen=True)
class Situation:
    """What the lines are told from.

    Attributes:
        test: for drift in the whole run, with the momentum up to which it holds.
        late: the same in its later half, where that has checkpoints enough; without that momentum.
        useful: of a run at a rate that is as good as constant, and moves.
        rate: the last learning rate that is known.
        rates: the highest over the lowest, over the checkpoints.
    """

    observed: Observations
    backtest: BacktestRecord | None
    test: DriftTest | None
    late: DriftTest | None
    useful: UsefulRate | None
    rate: float | None
    rates: float
    schedule: str
    left: float

    @property
    def last(self) -> int:
        return int(self.observed.steps[-1])

    @property
    def late_from(self) -> int:
        return int(self.observed.steps[later(self.observed)[0]])


def situation_of(
    trajectory: Trajectory, observed: Observations, *, clock: str, backtest: BacktestRecord | None = None
) -> Situation:
    """Tests, back-tests, unless they are given, and the useful rate of a run, and what its own files say of its schedule."""
    ahead, change = ahead_of(trajectory, clock), changed(trajectory)
    logged = {} if trajectory.regrounded else learning_rates(trajectory)
    steps, gram, beta1 = observed.steps, observed.judged, observed.beta1
    moves = np.diag(increments_gram(gram)) > 0
    rates = 1.0 if change is UNSET else change.highest / change.lowest if change.lowest > 0 else math.inf
    rows = later(observed)
    test = drift_test(gram, steps, observed.clock, beta1) if steps.size > FEWEST_SEEN else None
    if test is not None and test.linear:
        test = replace(test, holds_up_to=breakdown(gram, steps, observed.clock, beta1))
    if backtest is None and steps.size > FEWEST_SEEN and moves.any():
        backtest, _ = measure(observed, run=trajectory.name, clock=clock, ahead=ahead, learning_rate=change)
    return Situation(
        observed=observed,
        backtest=backtest,
        test=test,
        late=drift_test(rebased(gram, rows), steps[rows], observed.clock[rows], beta1)
        if rows.size >= FEWEST_LATE
        else None,
        useful=useful_rate.useful_rate(gram, steps, beta1) if rates < CONSTANT and moves.all() else None,
        rate=logged[max(logged)] if logged else None,
        rates=rates,
        schedule=ahead.sentence if ahead.end is not None else "",
        left=ahead.left,
    )


def later(observed: Observations) -> np.ndarray:
    """Rows of the checkpoints in the later half of the run."""
    steps = observed.steps
    return np.flatnonzero(steps >= steps[0] + _LATE * (steps[-1] - steps[0]))


def weaker(known: Situation) -> bool:
    """Whether increments of the later half share less of a direction than those of the earlier half, beyond chance.

    The mean cosine c of n increments in d directions has a variance of about 4 c / (n d) + 2 / (n² d).
    """
    observed, late = known.observed, known.late
    rows = np.arange(later(observed)[0] + 1)
    steps = observed.steps[rows]
    early = drift_test(rebased(observed.judged, rows), steps, observed.clock[rows], observed.beta1)
    if early is None or late is None:
        return False
    memory = max(optimizer_memory(observed.beta1), 1.0)
    cosine, variance = max(early.cosine, 0.0), 0.0
    for test, seen in ((early, steps), (late, observed.steps[later(observed)])):
        n, d = min(seen.size - 1, (seen[-1] - seen[0]) / memory), test.effective_dimension
        variance += 4 * cosine / (n * d) + 2 / (n**2 * d)
    return bool(cosine - late.cosine > _SURELY * math.sqrt(variance))
