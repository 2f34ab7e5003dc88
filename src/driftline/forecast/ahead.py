"""What lies ahead of a run: how many steps a horizon of its clock comes to, and where its learning-rate schedule ends.

The model that more training would give is a model of the schedule: where that has ended there is none to forecast.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from driftline.checkpoints import configuration
from driftline.checkpoints.configuration import LoggedRun
from driftline.checkpoints.learning_rate import NONE, Rates


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
        summed = self.rates.summed(max(self.last, *self.rates.known) + 1)
        unit = (summed[self.last] - summed[self.first]) / (self.last - self.first)
        ahead, wanted = summed[self.last :] - summed[self.last], horizon * unit * (1 + 1e-9)
        if wanted < ahead[-1]:
            return float(np.searchsorted(ahead, wanted, side="right") - 1)
        pace = ahead[-1] - ahead[-2]  # the last rate goes on
        return float(ahead.size - 1 + (math.floor((wanted - ahead[-1]) / pace) if pace > 0 else -1))

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
