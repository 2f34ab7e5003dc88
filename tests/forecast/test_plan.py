"""Plans before anything is written: who chooses where rollouts are named, and what takes part."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from conftest import walk_weights
from driftline import InputError, open_trajectory
from driftline.checkpoints.trajectory import Trajectory
from driftline.forecast.choose import Choice
from driftline.forecast.observations import Observations
from driftline.forecast.plan import make_plan
from driftline.forecast.request import ForecastRequest

ROLLOUTS = Path("rollouts.jsonl")


@pytest.fixture
def trajectory(make_run: Callable[..., Path], rng: np.random.Generator) -> Trajectory:
    return open_trajectory(make_run(walk_weights(rng, list(range(0, 80, 10)), {"w": (20,), "v": (5, 4)}, drift=1.0)))


@pytest.mark.parametrize(
    ("choice", "steps", "warning"),
    [
        (Choice("two-point", 20.0, "because", False), (0, 70), False),
        (Choice("two-point", 20.0, "because", False, first=30), (30, 70), False),
        (Choice("two-point", 5.0, "because", False), (0, 70), True),
        (Choice("hold", 0.0, "because", True), (70,), True),
        (Choice("blup", 20.0, "because", False), tuple(range(0, 80, 10)), False),
    ],
    ids=["two-point", "a window", "not so far", "hold", "blup"],
)
def test_where_rollouts_are_named_the_caller_chooses(
    trajectory: Trajectory, choice: Choice, steps: tuple[int, ...], warning: bool
) -> None:
    asked: list[tuple[list[int], float]] = []

    def choose_by(run: Trajectory, observed: Observations, ahead: float) -> Choice:
        assert run is trajectory
        asked.append((observed.steps.tolist(), ahead))
        return choice

    plan = make_plan(trajectory, ForecastRequest((80, 90), rollouts=ROLLOUTS), choose_by=choose_by)
    assert asked == [(list(range(0, 80, 10)), 20.0)]
    assert plan.trajectory.steps == steps
    assert plan.sentence.startswith("because")
    assert plan.warning == warning
    assert [forecast.origin.method for forecast in plan.forecasts] == [choice.method] * 2
    reached = [forecast.origin.reached for forecast in plan.forecasts]
    assert reached == [min(target, 70 + choice.horizon) for target in (80.0, 90.0)]
    for forecast in plan.forecasts:
        for a in forecast.coefficients.values():
            assert a.size == len(steps)
            assert a.sum() == pytest.approx(1)


def test_rollouts_without_anyone_to_score_them_are_a_mistake_of_the_caller(trajectory: Trajectory) -> None:
    with pytest.raises(ValueError, match="needs choose_by"):
        make_plan(trajectory, ForecastRequest((90,), rollouts=ROLLOUTS))


def test_a_step_is_forecast_once(trajectory: Trajectory) -> None:
    with pytest.raises(InputError, match="--to 90,100,90 names a step twice"):
        make_plan(trajectory, ForecastRequest((90, 100, 90), "two-point"))
