"""What to do next after each command, decided from its record, as a request for the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from driftline.commands import activations, analyze, backtest, compare, logprobs, study, train
from driftline.commands.requests import make, words
from driftline.files.record import read_record
from driftline.forecast.record import BacktestRecord
from driftline.linearity.comparison import Comparison
from driftline.linearity.summary import ActivationsSummary, LogprobsSummary, WeightsSummary
from driftline.studies import rank

FORMER = Path(__file__).parents[1] / "records" / "former"


def former(name: str, kind: Any) -> Any:
    return read_record(FORMER / f"{name}.json", kind, what="driftline")


@pytest.mark.parametrize(("linear", "said"), [(True, "how far ahead"), (False, "little to stand on")])
def test_after_an_analysis(linear: bool, said: str) -> None:
    summary = former("analysis", WeightsSummary)
    summary = replace(summary, verdict=replace(summary.verdict, linear=linear))
    asked = make(analyze.Analyze, run="my run", out="an out", steps="0:9", overwrite=True, engine="ray")
    step, advice = analyze.next_steps(summary, asked)
    assert said in step.why
    options = ["--steps", "0:9", "--out", "an out-backtest", "--analysis", "an out"]
    assert words(step.request) == ["driftline", "backtest", "my run", *options]
    assert words(advice.request) == ["driftline", "advise", "my run", "--steps", "0:9", "--analysis", "an out"]


@pytest.mark.parametrize(
    ("horizon", "expected"),
    [
        (30.0, "extrapolate r --steps 0:100 --out o-step-130 --to 130 --method damped --rank 2"),
        (0.0, "watch r --out o-watch"),
    ],
)
def test_after_a_backtest(horizon: float, expected: str) -> None:
    found = replace(
        former("backtest", BacktestRecord), recommended_horizon=horizon, steps=[0, 100], best_method="damped"
    )
    asked = make(backtest.Backtest, run="r", out="o", rank=2, steps="0:100")
    (step,) = backtest.next_steps(found, asked)
    assert words(step.request) == ["driftline", *expected.split()]


def test_after_log_probs_and_activations() -> None:
    for command, kind, name in (
        (logprobs, LogprobsSummary, "logprobs"),
        (activations, ActivationsSummary, "activations"),
    ):
        asked = make(getattr(command, name.capitalize()), run="r", rollouts="f", out="o", clock="lr", dtype="float32")
        (step,) = command.next_steps(former(name, kind), asked)
        assert words(step.request) == ["driftline", *["backtest", "r", "--out", "o-backtest", "--clock", "lr"]]


def test_after_a_comparison_comes_the_most_predictable_run_that_drifts() -> None:
    (one, *_) = former("comparison", Comparison).rows

    def row(name: str, skill: float | None, *, linear: bool = True, kind: str = "weights") -> Any:
        return replace(one, linear=linear, kind=kind, run=name, folder=f"{name}-out", skill={"damped": skill})

    rows = [row("a", None), row("b", 0.5), row("c", 0.9, linear=False), row("d", 0.9, kind="logprobs")]
    asked = make(compare.Compare, results=("x", "y"), out="o")
    (step,) = compare.next_steps(Comparison(driftline="0", rows=rows), asked)
    assert words(step.request) == ["driftline", *["backtest", "b", "--out", "b-out-backtest", "--analysis", "b-out"]]
    assert compare.next_steps(Comparison(driftline="0", rows=rows[2:]), asked) == []


@pytest.mark.parametrize(
    ("quick", "runs", "expected"),
    [
        (True, [], ["--out", "o-full"]),
        (True, ["my run"], ["--out", "o-full", "--runs", "my run"]),
        (False, [], ["--out", "o-of-mine", "--runs", "RUN"]),
        (False, ["my run"], None),
    ],
)
def test_after_a_study(quick: bool, runs: list[str], expected: list[str] | None) -> None:
    asked = make(study.Study, name="rank", out="o", quick=quick, runs=runs)
    found = study.next_steps(former("study-rank", rank.RECORD), asked)
    assert [words(step.request) for step in found] == ([["driftline", "study", "rank", *expected]] if expected else [])


def test_after_training() -> None:
    (step,) = train.next_steps([], make(train.Train, out="a run"))
    assert words(step.request) == ["driftline", "analyze", "a run", "--out", "a run-analysis"]
