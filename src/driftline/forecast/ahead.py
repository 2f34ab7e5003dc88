"""What lies ahead of a run: how many steps a horizon of its clock comes to, and where its learning-rate schedule ends.

The model that more training would give is a model of the schedule: where that has ended there is none to forecast.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass

import numpy as np

from driftline.checkpoints import configuration
from driftline.checkpoints.configuration import LoggedRun
from driftline.checkpoints.learning_rate import NONE, Rates

_FURTHEST = 1 << 40  # steps


@dataclass(frozen=True)
class Ahead:
    """Of a run whose checkpoints lie between steps `first` and `last`.

    Attributes:
        rates: those of the clock `lr`; none on the clock `step`.
        end: the step at which its learning-rate schedule ends, where it has one that is known.
    """

    first: int
    last: int
    rates: Rates = NONE
    end: int | None = None

    def steps(self, horizon: float) -> float:
        """The training steps that bring the clock so far ahead; a horizon of the clock is in steps of mean rate."""
        if not self.rates.known:
            return horizon
        first, last = self.rates.summed(np.array([self.first, self.last], np.float64))
        wanted = last + horizon * (last - first) / (self.last - self.first) * (1 + 1e-9)

        def within(steps: int) -> bool:
            return bool(self.rates.summed(np.array([self.last + steps], np.float64))[0] <= wanted)

        known = max(self.rates.known)
        most = max(known - self.last, 0) if self.rates.known[known] == 0 else _FURTHEST
        return float(bisect.bisect_left(range(1, most + 1), True, key=lambda steps: not within(steps)))

    @property
    def left(self) -> float:
        """The steps that the schedule has left, 0 when it has ended; infinite without one."""
        return math.inf if self.end is None else float(max(self.end - self.last, 0))

    @property
    def sentence(self) -> str:
        """Where the schedule ends."""
        what = "ended" if self.left == 0 else "ends"
        return f"the learning-rate schedule {what} at step {self.end}"


def ahead_of(run: LoggedRun, clock: str) -> Ahead:
    """Of a run, on a clock; one that was re-grounded has no schedule of its own."""
    rates = NONE if run.regrounded else configuration.rates_of(run)
    return Ahead(run.steps[0], run.steps[-1], rates if clock == "lr" else NONE, rates.end)
