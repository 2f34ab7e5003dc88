"""Whatever reads an analysis has the momentum it was made with, and what is offered next asks for the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import driftline
from driftline.checkpoints.trajectory import open_trajectory
from driftline.commands import activations, analyze, backtest, extrapolate, logprobs
from driftline.commands.requests import command_line, make
from driftline.forecast.observations import observe
from driftline.forecast.record import MARK
from driftline.linearity.summary import Optimizer, WeightsSummary, read_summary
from driftline.linearity.verdict import held_up_to

STEPS = range(0, 241, 15)


@pytest.fixture
def remembers(make_run: Callable[..., Path]) -> Path:
    """A driftless walk whose updates have a momentum of .99, of which its files say nothing."""
    rng = np.random.default_rng(5)
    weights, update, run = 0.03 * rng.standard_normal(20_000), np.zeros(20_000), {}
    for step in range(STEPS[-1] + 1):
        update = 0.99 * update + (1 - 0.99**2) ** 0.5 * rng.standard_normal(20_000)
        weights = weights + 1e-6 * update if step else weights
        if step in STEPS:
            run[step] = {"model.layers.0.w.weight": weights.reshape(100, 200)}
    return make_run(run)


@pytest.fixture
def analysis(remembers: Path, tmp_path: Path) -> Path:
    assert not driftline.analyze(remembers, tmp_path / "analysis", beta1=0.99).verdict.linear
    return tmp_path / "analysis"


def test_advice_by_an_analysis_has_its_momentum(remembers: Path, analysis: Path) -> None:
    found = driftline.advise(remembers, analysis=analysis)
    assert found.optimizer.said == "beta1 0.99 (--beta1 of --analysis)"
    assert not found.drift_found
    told = {line.about: line.do for line in found.lines}
    assert told["target"] == "Do not extrapolate."
    assert told["stop"].startswith("Look at its reward")
    assert {"learning rate", "batch"} <= {one.about for one in found.not_told}
    again = driftline.advise(remembers, beta1=0.99)
    assert again.optimizer.said == "beta1 0.99 (--beta1)"
    assert (again.lines, again.not_told) == (found.lines, found.not_told)


def test_the_users_word_comes_before_the_analysis_and_the_evidence_says_how_far_it_holds(
    remembers: Path, analysis: Path, tmp_path: Path
) -> None:
    found = driftline.advise(remembers, analysis=analysis, beta1=0.9)
    assert found.optimizer.said == "beta1 0.9 (--beta1)"
    assert found.drift_found  # of the memory that it was not told of
    verdict = driftline.analyze(remembers, tmp_path / "wrong", beta1=0.9).verdict
    assert verdict.holds_up_to_beta1 < 0.99
    said = held_up_to(verdict.holds_up_to_beta1)
    assert said in verdict.sentence
    why = {line.about: line.why for line in found.lines}
    assert why["stop"].endswith(said)
    assert why["target"].endswith(said)


def test_back_tests_by_an_analysis_have_its_momentum(remembers: Path, analysis: Path, tmp_path: Path) -> None:
    asked = make(backtest.Backtest, run=remembers, out=tmp_path / "tested", analysis=analysis, quiet=True)
    found = backtest.run(asked)
    assert (found.recommended_horizon, found.drift_found) == (0, False)
    assert json.loads((tmp_path / "tested" / MARK).read_text())["optimizer"]["adam_beta1"] == 0.99
    assert "beta1 0.99 (--beta1 of --analysis)" in (tmp_path / "tested" / "report.html").read_text()
    (step,) = backtest.next_steps(found, asked)
    assert "--beta1 0.99" in command_line(step.request)  # of watch, which takes no analysis
    assert "--ema" not in command_line(step.request)


@pytest.mark.parametrize(
    ("asked", "beta1", "ema"), [({}, 0.95, 0.97), ({"ema": 0.0}, 0.95, 0.0), ({"beta1": 0.5}, 0.5, 0.97)]
)
def test_each_of_the_two_is_the_analysis_own_unless_given(
    asked: dict[str, Any], beta1: float, ema: float, remembers: Path, tmp_path: Path
) -> None:
    driftline.analyze(remembers, tmp_path / "averaged", beta1=0.95, ema=0.97)
    found = observe(open_trajectory(remembers), analysis=tmp_path / "averaged", **asked)
    assert isinstance(found.optimizer, Optimizer)
    assert (found.optimizer.adam_beta1, found.optimizer.ema or 0.0) == (beta1, ema)
    assert found.beta1 == observe(open_trajectory(remembers), beta1=beta1, ema=ema).beta1


def test_a_forecast_by_an_analysis_has_its_momentum(remembers: Path, analysis: Path, tmp_path: Path) -> None:
    """`auto` goes nowhere where there is no drift; with the momentum that files are assumed to have it would."""
    held = driftline.extrapolate(remembers, tmp_path / "held", to=255, analysis=analysis)
    assert [one.method for one in held.records] == ["hold"]
    assert [one.method for one in driftline.extrapolate(remembers, tmp_path / "told", to=255, beta1=0.99).records] == [
        "hold"
    ]
    gone = driftline.extrapolate(remembers, tmp_path / "gone", to=255, analysis=analysis, beta1=0.9)
    assert [one.method for one in gone.records] != ["hold"]


def test_what_is_offered_next_carries_it_on(remembers: Path, analysis: Path) -> None:
    told = {"run": remembers, "out": "out", "beta1": 0.99, "ema": 0.5}
    asked = make(analyze.Analyze, **told)
    summary = read_summary(analysis)
    assert isinstance(summary, WeightsSummary)
    for step in analyze.next_steps(summary, asked):
        assert "--beta1 0.99 --ema 0.5" in command_line(step.request)
    outputs: Any = ((logprobs, logprobs.Logprobs), (activations, activations.Activations))
    for command, kind in outputs:
        (step,) = command.next_steps(summary, make(kind, **told, rollouts="F"))
        assert "--beta1 0.99 --ema 0.5" in command_line(step.request)
    record = driftline.backtest(remembers, analysis.parent / "tested", analysis=analysis, beta1=0.9)
    assert record.recommended_horizon > 0
    (step,) = backtest.next_steps(record, make(backtest.Backtest, **told, analysis=analysis))
    assert isinstance(step.request, extrapolate.Extrapolate)
    assert f"--beta1 0.99 --ema 0.5 --analysis {analysis}" in command_line(step.request)
