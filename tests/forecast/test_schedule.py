"""Runs whose learning rate changes: the clock is said, and no forecast goes where the schedule does not."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from driftline.checkpoints.learning_rate import Rates
from driftline.cli import main
from driftline.forecast.ahead import Ahead

STEPS = range(10, 81, 10)
SAID = "so equal numbers of steps are not equal amounts of training: add --clock lr."

Driftline = Callable[..., tuple[int, str]]
MakeDecay = Callable[..., Path]


@pytest.fixture
def decay(make_run: Callable[..., Path]) -> MakeDecay:
    """A run that is straight in summed learning rate, which decays linearly to 0 at step `end` of the schedule."""

    def make(end: int = 80, rate: Callable[[int], float] | None = None, max_steps: int | None = None) -> Path:
        rng = np.random.default_rng(1)
        start, direction = rng.standard_normal((2, 600))
        at = rate or (lambda step: max(1 - (step - 1) / end, 0))
        weights, steps, history = start, {}, []
        for step in range(1, max(STEPS) + 1):
            weights = weights + 2e-3 * at(step) * (direction + 0.5 * rng.standard_normal(600))
            history.append({"step": step, "learning_rate": 1e-5 * at(step)})
            if step in STEPS:
                steps[step] = {"model.layers.0.w.weight": weights}
        run = make_run(steps)
        state = {"log_history": history, "max_steps": max_steps or end}
        (run / "checkpoint-80" / "trainer_state.json").write_text(json.dumps(state))
        return run

    return make


@pytest.fixture
def driftline(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Driftline:
    def call(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["driftline", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return call


def results(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / name).read_text())


def test_the_clock_is_said_where_it_is_the_wrong_one(decay: MakeDecay, driftline: Driftline, tmp_path: Path) -> None:
    run = decay()
    said = f"The learning rate fell by 99 % over the run, from 8.88e-06 to 1.25e-07, {SAID}"
    for command, record in (("analyze", "summary.json"), ("backtest", "backtest.json")):
        _, text = driftline(command, run, "--out", tmp_path / command, "--quiet")
        assert said in text
        found = results(tmp_path / command, record)["learning_rate"]
        assert (found["highest"], found["last"], found["end"]) == (pytest.approx(8.875e-6), pytest.approx(1.25e-7), 80)
        assert found["sentence"] in (tmp_path / command / "report.html").read_text()
        _, text = driftline(command, run, "--clock", "lr", "--out", tmp_path / f"{command}-lr", "--quiet")
        assert "learning rate fell" not in text
        assert "learning_rate" not in results(tmp_path / f"{command}-lr", record)


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        (lambda step: 1.0, None),
        (lambda step: 1 - step / 20000, None),
        (lambda step: 1 - step / 320, "fell by 23 % over the run, from 9.69e-06 to 7.5e-06"),
        (lambda step: min(step / 40, 1), "rose over the run, from 2.5e-06 to 1e-05"),
        (lambda step: 1 - 0.5 * (30 < step < 50), "varied over the run, between 5e-06 and 1e-05"),
    ],
    ids=["constant", "hardly changes", "falls", "rises", "dips"],
)
def test_how_the_rate_changed(
    rate: Callable[[int], float], said: str | None, decay: MakeDecay, driftline: Driftline, tmp_path: Path
) -> None:
    _, text = driftline("analyze", decay(rate=rate), "--out", tmp_path / "out", "--quiet")
    assert (SAID in text) is (said is not None)
    assert f"The learning rate {said or ''}" in text or said is None


def test_a_clock_is_not_advised_that_would_be_refused(decay: MakeDecay, driftline: Driftline, tmp_path: Path) -> None:
    """A rate of 0 until step 20: both sentences name the checkpoints, and what they say to do can be done."""
    run = decay(rate=lambda step: float(step > 20))
    log = json.loads((run / "checkpoint-80" / "trainer_state.json").read_text())["log_history"]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    said = (
        "from step 10 to step 20, where the learning rate is 0: leave one of the two checkpoints there out with --steps"
    )
    for command in ("analyze", "backtest", "inspect"):
        words = () if command == "inspect" else ("--out", tmp_path / command, "--quiet")
        code, text = driftline(command, run, *words)
        assert code == 0
        assert f"but --clock lr does not advance {said}" in " ".join(text.split())
        assert "add --clock lr" not in text
        assert "consider --clock lr" not in text
    for command in ("analyze", "backtest"):
        code, text = driftline(command, run, "--clock", "lr", "--out", tmp_path / f"{command}-lr", "--quiet")
        assert code == 2
        assert f"--clock lr does not advance {said}" in text
        kept = ("--clock", "lr", "--steps", "20:80:10")
        code, text = driftline(command, run, *kept, "--out", tmp_path / f"{command}-kept", "--quiet")
        assert code == 0
    for method in ("auto", "two-point", "least-squares", "damped"):
        asked = (run, "--clock", "lr", "--to", 120, "--method", method, "--out", tmp_path / method)
        code, text = driftline("extrapolate", *asked, "--steps", "10,20,30")
        assert code == 2
        assert said in text
    found = results(tmp_path / "analyze-kept", "summary.json")
    assert np.isfinite(
        [found["drift"][key] for key in ("growth_exponent", "drift_per_clock", "increment_cosine")]
    ).all()


@pytest.mark.parametrize("every", [1, 10])
def test_a_decay_whose_last_logged_rate_is_0_is_straight_on_the_clock_that_is_advised(
    every: int, decay: MakeDecay, driftline: Driftline, tmp_path: Path
) -> None:
    """As trainers log that ask the scheduler after the step."""
    run = decay()
    state = run / "checkpoint-80" / "trainer_state.json"
    rows = [{"step": step, "learning_rate": 1e-5 * (1 - step / 80)} for step in range(every, 81, every)]
    state.write_text(json.dumps({"log_history": rows, "max_steps": 80}))
    _, text = driftline("analyze", run, "--out", tmp_path / "steps", "--quiet")
    assert SAID in text
    code, text = driftline("analyze", run, "--clock", "lr", "--out", tmp_path / "lr", "--quiet")
    assert code == 0, text
    found = results(tmp_path / "lr", "summary.json")
    used = np.cumsum([1e-5 * (1 - (step - 1) / 80) for step in range(1, 81)])[9::10]
    np.testing.assert_allclose(np.subtract(found["clock_values"], found["clock_values"][0]), used - used[0], rtol=1e-9)


def test_no_step_is_recommended_beyond_the_end_of_a_schedule(
    decay: MakeDecay, driftline: Driftline, tmp_path: Path
) -> None:
    for clock in ("step", "lr"):
        run = decay() if clock == "step" else tmp_path / "run"
        _, text = driftline("backtest", run, "--clock", clock, "--out", tmp_path / clock, "--quiet")
        found = results(tmp_path / clock, "backtest.json")
        assert max(found["horizons"].values()) > 0, "or there is nothing to limit"
        assert (found["recommended_horizon"], found["schedule_end"]) == (0, 80)
        assert "but the learning-rate schedule ended at step 80 and training on it goes no further" in text
        assert "horizon 0." in text
        page = (tmp_path / clock / "report.html").read_text()
        assert "driftline extrapolate" not in page
        assert "Train on" not in page


def test_a_schedule_that_goes_on_leaves_room_to_its_end(decay: MakeDecay, driftline: Driftline, tmp_path: Path) -> None:
    run = decay(end=400, max_steps=84)
    _, text = driftline("backtest", run, "--out", tmp_path / "out", "--quiet")
    found = results(tmp_path / "out", "backtest.json")
    assert max(found["horizons"].values()) > 4 == found["recommended_horizon"]
    assert "but the learning-rate schedule ends at step 84" in text
    assert "horizon 4." in text
    page = (tmp_path / "out" / "report.html").read_text().replace("<span>", "").replace("</span>", "")
    assert "--to 84" in page


def test_a_run_of_constant_rate_may_go_beyond_its_last_step(
    decay: MakeDecay, driftline: Driftline, tmp_path: Path
) -> None:
    run = decay(rate=lambda step: 1.0, max_steps=80)
    _, text = driftline("backtest", run, "--out", tmp_path / "out", "--quiet")
    found = results(tmp_path / "out", "backtest.json")
    assert found["recommended_horizon"] == max(found["horizons"].values()) > 0
    assert "schedule" not in text
    _, text = driftline("extrapolate", run, "--to", 100, "--out", tmp_path / "model", "--quiet")
    assert "schedule" not in text


def test_a_forecast_beyond_the_schedule_is_written_with_a_warning(
    decay: MakeDecay, driftline: Driftline, tmp_path: Path
) -> None:
    run = decay()
    said = "the learning-rate schedule ended at step 80, so more training on it would not give a model of step 120"
    for method in ("auto", "two-point", "blup"):
        code, text = driftline("extrapolate", run, "--to", 120, "--method", method, "--out", tmp_path / method)
        assert code == 0
        assert said in text
        assert "driftline: note: " in text
        assert (tmp_path / method / "model.safetensors").is_file()
    _, text = driftline("extrapolate", run, "--to", 60, "--interpolate", "--out", tmp_path / "between")
    assert "schedule" not in text


def test_the_clock_of_a_rate_that_is_0_never_gets_there(decay: MakeDecay, driftline: Driftline, tmp_path: Path) -> None:
    run = decay(rate=lambda step: max(1 - step / 80, 0))
    code, text = driftline("extrapolate", run, "--to", 120, "--clock", "lr", "--out", tmp_path / "model")
    assert code == 2
    assert "the learning rate is 0 at step 80, the end of its schedule, so --clock lr never reaches step 120" in text


def test_on_the_clock_of_the_rate_a_forecast_says_the_step_that_it_reaches(
    decay: MakeDecay, driftline: Driftline, tmp_path: Path
) -> None:
    """At half the mean rate a horizon takes twice the steps."""
    run = decay(rate=lambda step: 1.0 if step <= 50 else 0.5)
    driftline("backtest", run, "--clock", "lr", "--out", tmp_path / "tested", "--quiet")
    found = results(tmp_path / "tested", "backtest.json")
    horizon = found["horizons"]["two-point"]
    driftline("extrapolate", run, "--to", 400, "--clock", "lr", "--out", tmp_path / "model")
    recipe = results(tmp_path / "model", "driftline.json")
    mean = (40 + 0.5 * 30) / 70
    assert recipe["reached"] == 80 + np.floor(horizon * mean / 0.5 + 1e-6)


@pytest.mark.parametrize(("horizon", "steps"), [(0, 0), (1, 1), (10, 10), (30, 50), (2.5, 2)])
def test_steps_of_a_horizon(horizon: float, steps: float) -> None:
    rates = Rates({step: 1.0 if step <= 20 else 0.5 for step in range(1, 101)})
    assert Ahead(0, 10, rates).steps(horizon) == steps
    assert Ahead(0, 10).steps(horizon) == horizon


def test_a_rate_that_ended_at_0_has_no_steps_ahead() -> None:
    rates = Rates({step: max(1 - step / 20, 0.0) for step in range(1, 21)})
    assert Ahead(0, 20, rates, rates.end).steps(5) == 0
    assert rates.end == 20
