"""`auto`: which forecast to write, how far it may reach, and a sentence that says why.

Where rollouts are given, log-probs decide (`outputs.function_space`, by way of `ChooseBy`). Without, a forecast can
only be scored in weights, and the method with the least weight error leans on the last increments, whose noise the
written model then carries: it does worse on the task than the plain two-point line. So `auto` takes two-point
through the widest window, and uses the back-tests only to say how far it may go.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from driftline.checkpoints.configuration import step_text
from driftline.checkpoints.trajectory import Trajectory
from driftline.forecast.backtest import BackTests, backtest, untestable
from driftline.forecast.observations import Observations

FEWEST = 5  # checkpoints: two cutoffs, each with three or more seen, and a target for each


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
        f"(it takes {FEWEST + 1}), so how far this can be trusted is not known",
        True,
    )


def choose(observed: Observations) -> Choice:
    """Two-point as far as its own back-tests carry it; hold where they carry it nowhere."""
    first, last = int(observed.steps[0]), int(observed.steps[-1])
    tests = backtest(observed, only=["two-point", "damped"])
    if tests.test is None:
        why, do = untestable(observed)
        return _held(last, why, f"{do}; ")
    horizon, damped = tests.horizons["two-point"], tests.horizons["damped"]
    beside = f"--method damped moves less and was good to {step_text(damped)} steps; " if damped > horizon else ""
    if horizon > 0:
        nearest = tests.pooled["two-point"][0]
        sentence = (
            f"two-point through steps {first} and {last}: on this run's own checkpoints it beat holding the last one "
            f"up to {step_text(horizon)} steps ahead (skill {nearest.skill:.2f} at {step_text(nearest.horizon)} steps)"
        )
        return Choice("two-point", horizon, sentence, False, beside=beside)
    if observed.steps.size <= FEWEST:
        return untested(first, last, observed.steps.size)
    return _held(last, _why_not(tests), beside)


def _held(last: int, why: str, beside: str) -> Choice:
    sentence = (
        f"hold: {why}, so the model written is that of step {last}, unchanged "
        f"({beside}--method two-point extrapolates all the same)"
    )
    return Choice("hold", 0.0, sentence, True)


def _why_not(tests: BackTests) -> str:
    """Why two-point is not to be trusted at any horizon."""
    if tests.test is None or not tests.test.found:
        return "drift is not told from chance in this run"
    pooled = tests.pooled["two-point"]
    if not any(one.low > -math.inf for one in pooled):
        return "its checkpoints are too few, or lie too unevenly, to test a forecast on"
    if next(one for one in pooled if one.low > -math.inf or not one.skill > 0).skill > 0:
        return "two-point did not reliably do better than holding on this run's own checkpoints"
    return "two-point did worse than holding on this run's own checkpoints"
