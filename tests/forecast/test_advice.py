"""What a run says to do next: each line on runs of which it is known what they should say."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import driftline
from conftest import plain, walk_weights
from driftline import cli
from driftline.files.record import record_text
from driftline.forecast import advice
from driftline.forecast.advice import Advised
from driftline.forecast.observations import Observations
from driftline.forecast.situation import Situation
from driftline.forecast.useful_rate import Estimate, UsefulRate
from driftline.linearity.drift import drift_test
from driftline.linearity.statistics import rebased

STEPS = np.arange(0, 200, 10)


def useful(factor: tuple[float, float, float], noise: tuple[float, float, float]) -> UsefulRate:
    return UsefulRate(Estimate(*factor), Estimate(*noise), Estimate(100.0, 50.0, 200.0), 1e-3, 190, 100.0)


def situation(weights: np.ndarray, steps: np.ndarray = STEPS, beta1: float = 0.0, **known: Any) -> Situation:
    """Of weights [T, N]."""
    gram = (weights - weights[0]) @ (weights - weights[0]).T
    observed = Observations(steps, steps.astype(float), beta1, {"w": gram})
    later = np.flatnonzero(steps >= (steps[0] + steps[-1]) / 2)
    tests: dict[str, Any] = {
        "test": drift_test(gram, steps, observed.clock, beta1),
        "late": drift_test(rebased(gram, later), steps[later], observed.clock[later], beta1),
    }
    facts = {
        "backtest": None,
        "useful": None,
        "rate": None,
        "rates": 1.0,
        "schedule": "",
        "left": math.inf,
    }
    return Situation(observed=observed, **{**facts, **tests, **known})


@pytest.fixture(scope="module")
def straight() -> Situation:
    rng = np.random.default_rng(0)
    return situation(np.outer(STEPS, rng.standard_normal(500)) / 10 + rng.standard_normal((20, 500)).cumsum(0))


@pytest.fixture(scope="module")
def walk() -> Situation:
    return situation(np.random.default_rng(1).standard_normal((20, 500)).cumsum(0))


def told(found: Advised | str) -> Advised:
    assert isinstance(found, Advised)
    return found


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        ((20.0, 10.0, 40.0), "Raise the learning rate, to about 5e-05."),
        ((20.0, 10.0, math.inf), "Raise the learning rate, to about 5e-05."),
        ((60.0, 10.0, math.inf), "Raise the learning rate, to about 0.0001."),
        ((2000.0, 1000.0, math.inf), "Raise the learning rate, to about 0.0001 at first, and ask again."),
        ((3.0, 2.5, 4.5), "Leave the learning rate as it is"),
        ((1.5, 0.8, 3.0), "Leave the learning rate as it is"),
        ((0.4, 0.2, 0.8), "Do not raise the learning rate: it is above"),
    ],
)
def test_a_rate_is_raised_or_lowered_by_the_interval_of_the_largest_useful_one(
    straight: Situation, factor: tuple[float, float, float], said: str
) -> None:
    found = told(advice.learning_rate(replace(straight, useful=useful(factor, (5.0, 3.0, 8.0)), rate=1e-5)))
    assert found.do.startswith(said)
    assert found.figure == factor[0]
    assert found.interval == [factor[1], None if factor[2] == math.inf else factor[2]]


def test_a_rate_that_is_not_known_is_a_multiple_of_the_present_one(straight: Situation) -> None:
    found = told(advice.learning_rate(replace(straight, useful=useful((20, 10, 40), (5, 3, 8)))))
    assert found.do == "Raise the learning rate, to about 5 times this one."


@pytest.mark.parametrize(
    ("noise", "said"),
    [
        ((6.0, 3.0, 9.0), "A larger batch would still make each step better."),
        ((0.2, 0.1, 0.4), "Do not raise the batch"),
        ((1.0, 0.3, 3.0), "Leave the batch as it is"),
    ],
)
def test_a_batch_is_judged_by_the_noise_of_a_step(
    straight: Situation, noise: tuple[float, float, float], said: str
) -> None:
    found = told(advice.batch(replace(straight, useful=useful((20, 10, 40), noise))))
    assert found.do.startswith(said)
    assert found.figure == noise[0]
    assert found.interval == [noise[1], noise[2]]


@pytest.mark.parametrize("line", [advice.learning_rate, advice.batch])
def test_without_drift_or_at_a_rate_that_changed_nothing_is_said_of_it(
    straight: Situation, walk: Situation, line: Callable[[Situation], Advised | str]
) -> None:
    known = useful((20, 10, 40), (6, 3, 9))
    assert "drift is not told from chance" in str(line(replace(walk, useful=known)))
    assert "changed 10-fold" in str(line(replace(straight, useful=known, rates=10.0)))
    assert "too few checkpoints: it takes 8" in str(line(straight))
    still = situation(np.repeat(np.random.default_rng(3).standard_normal((10, 50)), 2, axis=0))
    assert "stand still" in str(line(still))


def test_an_estimate_that_may_be_anything_gives_no_rate(straight: Situation) -> None:
    found = advice.learning_rate(replace(straight, useful=useful((20, 3, math.inf), (6, 3, 9))))
    assert "the largest useful rate may be anything above 3 times" in str(found)


def test_whether_to_re_ground(straight: Situation, walk: Situation) -> None:
    assert "try a larger learning rate first" in told(advice.regrounding(straight)).do
    assert told(advice.regrounding(walk)).do == "Do not re-ground."
    assert "too few" in str(advice.regrounding(replace(straight, test=None)))


def test_whether_to_stop(straight: Situation, walk: Situation) -> None:
    assert told(advice.stop(straight)).do == "Let it run on: it still has a direction."
    assert told(advice.stop(walk)).do.startswith("Look at its reward")
    assert "too few" in str(advice.stop(replace(straight, test=None)))
    rng = np.random.default_rng(2)
    drift = np.outer(np.minimum(STEPS, 80), rng.standard_normal(500)) / 10
    ended = situation(drift + rng.standard_normal((20, 500)).cumsum(0))
    assert told(advice.stop(ended)).do == "Stop, or change something: no drift is left."
    assert "from step 100 to 190" in told(advice.stop(ended)).why


@pytest.mark.slow
@pytest.mark.parametrize(("drift", "ended"), [(1.0, 34), (0.5, 34), (0.2, 0), (0.135, 0)])
def test_no_drift_left_is_seldom_said_of_a_run_that_drifts_and_nearly_always_of_one_that_has_ended(
    drift: float, ended: int
) -> None:
    """Of 40 each: drift so large beside its noise over an interval, to the end or to the middle; a weak one is not told of."""
    said = {"on": 0, "ended": 0}
    for seed in range(40):
        rng = np.random.default_rng(seed)
        direction, noise = drift * rng.standard_normal(500), rng.standard_normal((20, 500)).cumsum(0)
        for name, clock in (("on", STEPS), ("ended", np.minimum(STEPS, 90))):
            found = advice.stop(situation(np.outer(clock, direction) / 10 + noise))
            said[name] += isinstance(found, Advised) and found.do.startswith("Stop")
    assert said["on"] <= 2
    assert said["ended"] >= ended


@pytest.mark.parametrize(
    ("steps", "beta1", "said"),
    [
        (np.arange(0, 60, 10), 0.9, "Save more: 10 or more"),
        (np.arange(0, 100, 1), 0.9, "Save fewer: one every 4 steps"),
        (np.arange(0, 1000, 1), 0.9, "Save fewer: one every 9 steps"),
        (np.arange(0, 400, 20), 0.9, "Keep saving as you do."),
        (np.arange(0, 100, 1), 0.0, "Keep saving as you do."),
    ],
)
def test_checkpoints_are_held_against_the_optimizers_memory(steps: np.ndarray, beta1: float, said: str) -> None:
    gram = np.outer(steps, steps).astype(float)
    observed = Observations(steps, steps.astype(float), beta1, {"w": gram})
    none: dict[str, Any] = {"backtest": None, "test": None, "late": None, "useful": None, "rate": None}
    known = Situation(observed=observed, rates=1.0, schedule="", left=math.inf, **none)
    assert told(advice.checkpoints(known)).do.startswith(said)


def test_where_a_schedule_ends(straight: Situation) -> None:
    assert "no schedule" in str(advice.schedule(straight))
    ended = replace(straight, schedule="the learning-rate schedule ended at step 190", left=0.0)
    assert told(advice.schedule(ended)).do.startswith("Begin a new schedule, or stop")
    ahead = replace(straight, schedule="the learning-rate schedule ends at step 240", left=50.0)
    assert "the 50 steps that are left" in told(advice.schedule(ahead)).do


@pytest.fixture
def run(make_run: Callable[..., Path], rng: np.random.Generator) -> Path:
    return make_run(walk_weights(rng, STEPS.tolist(), {"up.weight": (20, 30), "norm.weight": (30,)}, drift=0.5))


def test_the_command_the_function_and_an_analysis_say_the_same(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = driftline.advise(run)
    driftline.analyze(run, tmp_path / "analysis")
    capsys.readouterr()
    words = ["driftline", "advise", str(run), "--json", "--analysis", str(tmp_path / "analysis")]
    monkeypatch.setattr(sys, "argv", words)
    cli.main()
    out, error = capsys.readouterr()
    assert json.loads(out) == plain(found)
    assert error == ""
    assert {line.about for line in found.lines} | {one.about for one in found.not_told} == set(advice.LINES)
    assert found.drift_found
    monkeypatch.setattr(sys, "argv", [*words[:3], "--quiet"])
    cli.main()
    printed = capsys.readouterr().out
    assert all(line.do in printed for line in found.lines)
    assert "not told:" in printed


@pytest.mark.parametrize("steps", ["0:20", "0:60", "0:70"])
def test_a_run_of_few_checkpoints_says_what_it_does_not_tell(run: Path, steps: str) -> None:
    found = driftline.advise(run, steps=steps)
    assert json.loads(record_text(found))["steps"]
    assert {"learning rate", "batch"} <= {one.about for one in found.not_told}
    assert all(one.why for one in found.not_told)


@pytest.mark.parametrize("steps", ["0", "0,10"])
def test_fewer_than_three_checkpoints_are_refused(run: Path, steps: str) -> None:
    with pytest.raises(driftline.InputError, match="a line needs at least 3"):
        driftline.advise(run, steps=steps)


def test_copies_of_one_checkpoint_say_nothing(make_run: Callable[..., Path]) -> None:
    found = driftline.advise(make_run({step: {"w": np.ones((4, 4))} for step in range(0, 120, 10)}))
    assert not found.drift_found
    assert {line.about for line in found.lines} <= {"checkpoints"}


@pytest.mark.parametrize(
    ("rate", "end", "told", "said"),
    [
        (lambda step: 1e-5, 190, "Nothing", "may"),
        (lambda step: 1e-5 * (1 - step / 190), 190, "Begin a new schedule, or stop", "the learning rate fell to 0"),
        (
            lambda step: 1e-5 * (1 - step / 300),
            300,
            "Nothing lies beyond the 110 steps that are left",
            "changed 2.7-fold",
        ),
    ],
)
def test_a_schedule_is_read_from_the_trainers_files(
    run: Path, rate: Callable[[int], float], end: int, told: str, said: str
) -> None:
    history = [{"step": step, "learning_rate": rate(step)} for step in range(1, 191)]
    state = {"log_history": history, "max_steps": end}
    (run / "checkpoint-190" / "trainer_state.json").write_text(json.dumps(state))
    found = driftline.advise(run)
    assert found.learning_rate == pytest.approx(rate(190))
    schedules = [line.do for line in found.lines if line.about == "schedule"]
    rates = [one.why for one in found.not_told if one.about == "learning rate"]
    if rate(1) == rate(190):
        assert schedules == rates == []
    else:
        assert schedules[0].startswith(told)
        assert said in rates[0]
