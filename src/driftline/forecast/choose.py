"""`auto`: which forecast to write, how far it may reach, and a sentence that says why.

Where rollouts are given, log-probs decide (`outputs.function_space`, by way of `ChooseBy`). Without, a forecast can
only be scored in weights, and the method with the least weight error leans on the last increments, whose noise the
written model then carries: it does worse on the task than the plain two-point line. So `auto` takes two-point
through the widest window, and uses the back-tests only to say how far it may go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from driftline.checkpoints.trajectory import Trajectory
from driftline.forecast.backtest import backtest
from driftline.forecast.observations import Observations

FEWEST = 6  # checkpoints: three cutoffs, each with three or more seen, and a target for each


@dataclass(frozen=True)
class Choice:
    """A method, how many steps beyond the last checkpoint it may reach, and why.

    `first` is the first step of the window, where that is not the whole run; `scores` what the choice rests on;
    `beside` what there is where it falls short, as a clause to put before another.
    """

    method: str
    horizon: float
    sentence: str
    warning: bool
    first: int | None = None
    scores: dict[str, float] = field(default_factory=dict)
    beside: str = ""


# of (run, the Grams of the checkpoints that may be used, how far the forecast is to go in clock units)
ChooseBy = Callable[[Trajectory, Observations, float], Choice]


def untested(first: int, last: int, checkpoints: int) -> Choice:
    """The choice where the run is too short for back-tests."""
    return Choice(
        "two-point",
        float("inf"),
        f"two-point through steps {first} and {last}, not back-tested: {checkpoints} checkpoints are too few "
        f"(it takes {FEWEST}), so how far this can be trusted is not known",
        True,
    )


def choose(observed: Observations) -> Choice:
    """Two-point as far as its own back-tests carry it; hold where they carry it nowhere."""
    first, last = int(observed.steps[0]), int(observed.steps[-1])
    tests = backtest(observed, only=["two-point", "damped"])
    if tests.test is None:
        return untested(first, last, observed.steps.size)
    horizon, damped = tests.horizons["two-point"], tests.horizons["damped"]
    beside = f"--method damped moves less and was good to {damped:g} steps; " if damped > horizon else ""
    if horizon > 0:
        nearest = tests.pooled["two-point"][0]
        sentence = (
            f"two-point through steps {first} and {last}: on this run's own checkpoints it beat holding the last one "
            f"up to {horizon:g} steps ahead (skill {nearest.skill:.2f} at {nearest.horizon:g} steps)"
        )
        return Choice("two-point", horizon, sentence, False, beside=beside)
    why = (
        "two-point did worse than holding on this run's own checkpoints"
        if tests.test.found
        else "drift is not told from chance in this run"
    )
    return Choice(
        "hold",
        0.0,
        f"hold: {why}, so the model written is that of step {last}, unchanged "
        f"({beside}--method two-point extrapolates all the same)",
        True,
    )
