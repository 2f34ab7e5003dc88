"""`driftline demo`: the main job on this machine, from the shipped base model to a forecast model and its score.

A real GRPO run is made on the spot; nothing is canned. In it RL changes what the model does (the task `strategy`), so
that a good forecast cannot be had by sampling colder. A finished run in the demo's folder is kept, so a
second call goes on from there. Each stage is the command of its name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from driftline.commands import analyze, backtest, evaluate, extrapolate, inspect, train
from driftline.commands.options import Decoding, Output, Printing, Quiet, Source, TaskChoice, TokenChoice
from driftline.commands.requests import Next, command_line, spelled_out
from driftline.errors import InputError
from driftline.lab.settings import LabRun

if TYPE_CHECKING:
    from driftline.evaluation.records import Control
    from driftline.lab.record import DemoScores, ModelScore, ScoredStep

FULL = LabRun(task="strategy", steps=80, save_every=4, learning_rate=5e-6)
QUICK = LabRun(task="strategy", steps=16, save_every=2, prompts_per_step=4, held_out_problems=64)
_SEEN = 4  # a forecast from the first of so many parts of the run is checked at its end
_SAMPLES = 8  # completions of each held-out problem
_BATCH = 256  # of them at once


@dataclass(frozen=True, kw_only=True)
class Demo:
    """The main job on this machine: train, analyze, back-test, extrapolate, score."""

    out: Annotated[Path, arg(metavar="DIR")] = Path("driftline-demo")
    """the demo's folder; a second call continues from what is there"""
    quick: bool = False
    """a smoke-sized run of under 90 seconds"""
    control: bool = False
    """rewards by coin toss, whatever the answer: what all this says of a run that learns nothing"""
    printing: Quiet = Quiet()

    @property
    def settings(self) -> LabRun:
        return replace(QUICK if self.quick else FULL, reward="coin" if self.control else "answer")

    @property
    def run(self) -> Path:
        return self.out / "run"

    @property
    def source(self) -> Source:
        return Source(run=(str(self.run),))

    @property
    def said(self) -> Printing:
        return Printing(quiet=self.printing.quiet)


def run(request: Demo) -> DemoScores:
    """Train, inspect, analyze, back-test, extrapolate and score, each into its folder; the record of `scores.json`."""
    rows = _train(request)
    print("\n2/6 inspecting the run\n", flush=True)
    looked_at = inspect.Inspect(source=request.source)
    inspect.show(inspect.run(looked_at), looked_at)
    print("\n3/6 analysing every weight of every checkpoint\n", flush=True)
    _analyze(request, rows)
    print("\n4/6 back-testing: how far ahead can this run be forecast?\n", flush=True)
    horizon = _backtest(request)
    print("\n5/6 extrapolating\n", flush=True)
    forecasts = _extrapolate(request, horizon)
    print("\n6/6 scoring the forecasts beside the checkpoints they came from\n", flush=True)
    scores = _score(request, forecasts)
    _page(request, scores, rows)
    return scores


def show(scores: DemoScores, request: Demo) -> None:
    from driftline import terminal

    terminal.scores(scores)
    print(f"\nOpen {request.out / 'report.html'} in a browser, and {request.out / 'analysis' / 'report.html'}.")
    print(f"For a run of your own: {command_line(next_steps(request)[0].request)}")


def next_steps(request: Demo) -> list[Next]:
    """The same of a run of one's own."""
    asked = analyze.Analyze(source=Source(run=("RUN",)), output=Output(out=Path("DIR")))
    return [Next("Measure a run of your own: put its folder in place of RUN.", asked)]


def _page(request: Demo, scores: DemoScores, rows: list[ScoredStep]) -> None:
    """`report.html` of the demo's folder."""
    from driftline.report import demo as page

    cut, last, _ = _places(request)
    steps = spelled_out(next_steps(request))
    page.write(request.out, scores, rows, seen=cut, target=last, command=command_line(request), next_steps=steps)


def _train(request: Demo) -> list[ScoredStep]:
    """The accuracy rows of the run, made unless it is there."""
    rows = _finished_run(request.run, request.settings)
    if rows is not None:
        print(f"1/6 training: already done, in {request.run}")
        return rows
    steps = request.settings.steps
    print(f"1/6 training: {steps} steps of GRPO on a small model, in {request.run}", flush=True)
    asked = train.Train(
        output=Output(out=request.run, overwrite=True), settings=request.settings, printing=request.printing
    )
    return train.run(asked) or []


def _analyze(request: Demo, rows: list[ScoredStep]) -> None:
    from driftline import terminal

    output = Output(out=request.out / "analysis", overwrite=True)
    asked = analyze.Analyze(source=request.source, output=output, printing=request.said)
    analyze.show(analyze.run(asked), asked)
    print()
    terminal.accuracy(rows)


def _backtest(request: Demo) -> float:
    """The recommended horizon, in steps."""
    asked = backtest.Backtest(
        source=request.source,
        output=Output(out=request.out / "backtest", overwrite=True),
        analysis=request.out / "analysis",
        printing=request.said,
    )
    record = backtest.run(asked)
    backtest.show(record, asked)
    return float(record["recommended_horizon"])


def _extrapolate(request: Demo, horizon: float) -> list[tuple[str, Path]]:
    """Two forecasts: of the last checkpoint from the first quarter, which can be checked; and beyond the end."""
    cut, last, interval = _places(request)
    beyond = last + round(max(horizon, interval))
    return [
        _forecast(request, f"0:{cut}", last, request.out / "hindsight", method="two-point"),
        _forecast(request, f"0:{last}", beyond, request.out / "forecast"),
    ]


def _forecast(request: Demo, seen: str, target: int, folder: Path, method: str = "auto") -> tuple[str, Path]:
    """What was forecast, in words, and where it lies; with a method that is named, as far as asked, tested or not."""
    told = extrapolate.Extrapolate(
        source=Source(run=request.source.run, steps=seen),
        output=extrapolate.ModelOutput(out=folder),
        to=str(target),
        method=method,
    )
    print(command_line(told))
    asked = replace(told, output=replace(told.output, overwrite=True), printing=request.said)
    outcome = extrapolate.run(asked)
    extrapolate.show(outcome, asked)
    print()
    (recipe,) = outcome.records
    reached = recipe.goal if recipe.method != "hold" else recipe.steps[-1]
    return f"step {reached:g}, forecast from steps {seen.replace(':', ' to ')}", folder


def _places(request: Demo) -> tuple[int, int, int]:
    """The step a quarter into the run, its last one, and the last interval."""
    steps = request.source.open(quiet=True).steps
    return steps[max(len(steps) // _SEEN, 1)], steps[-1], steps[-1] - steps[-2]


def _score(request: Demo, forecasts: list[tuple[str, Path]]) -> DemoScores:
    """Each forecast beside the checkpoint that it started from, and the first beside what it is a forecast of."""
    from driftline.files.record import write_record
    from driftline.lab.record import DemoScores

    cut, last, _ = _places(request)
    checkpoints = {step: request.run / f"checkpoint-{step}" for step in (cut, last)}
    hindsight, forecast = (
        _evaluate(request, folder, checkpoints[start])
        for (_, folder), start in zip(forecasts, checkpoints, strict=True)
    )
    rows = [
        *_started_from(f"step {cut}, trained", checkpoints[cut], hindsight),
        _forecast_score(*forecasts[0], hindsight),
        _started_from(f"step {last}, trained", checkpoints[last], forecast)[0],
        _forecast_score(*forecasts[1], forecast),
    ]
    record = DemoScores(
        problems=request.settings.held_out_problems,
        samples=_SAMPLES,
        rows=rows,
        hindsight=hindsight,
        forecast=forecast,
    )
    write_record(request.out / "scores.json", record)
    return record


def _evaluate(request: Demo, model: Path, beside: Path) -> Control:
    """A forecast beside the checkpoint that it started from, sampled alike, greedy, and as sure of its tokens."""
    asked = evaluate.Evaluate(
        model=str(model),
        beside=str(beside),
        task=TaskChoice(task=request.settings.task, problems=request.settings.held_out_problems),
        output=Output(out=request.out / f"{model.name}-score", overwrite=True),
        samples=_SAMPLES,
        tokens=TokenChoice(temperature=request.settings.temperature, top_p=1.0),
        seed=request.settings.seed,
        decoding=Decoding(batch_size=_BATCH),
        printing=request.said,
    )
    record = evaluate.run(asked)
    assert record.control
    return record.control


def _started_from(name: str, folder: Path, control: Control) -> list[ModelScore]:
    """A checkpoint as it is, and at the temperature at which it is as sure of its tokens as the forecast from it."""
    from driftline.lab.record import ModelScore

    matched = control.late_matched
    colder = f"{name}, at temperature {matched.temperature:.2g}"
    return [
        ModelScore(model=title, folder=str(folder), greedy=_greedy(control, "late"), sampled=sampled)
        for title, sampled in ((name, control.late.avg_at_k), (colder, matched.avg_at_k))
    ]


def _forecast_score(name: str, folder: Path, control: Control) -> ModelScore:
    from driftline.lab.record import ModelScore

    sampled = control.late.avg_at_k + control.gain.mean
    return ModelScore(model=name, folder=str(folder), greedy=_greedy(control, "forecast"), sampled=sampled)


def _greedy(control: Control, arm: str) -> float:
    assert control.greedy
    return control.greedy[arm]


def _finished_run(run: Path, settings: LabRun) -> list[ScoredStep] | None:
    """The accuracy rows of a finished run with these settings, or None where training has to start."""
    from driftline.lab.record import read_run, read_scores

    if not run.is_dir() or not any(run.iterdir()):
        return None
    try:
        record = read_run(run)
    except InputError as error:
        raise InputError(f"{run} holds files that are not the demo's: choose another folder with --out") from error
    if not record.completed:
        return None
    if record.settings != settings:
        raise InputError(f"{run} holds a finished run with other settings: choose another folder with --out to keep it")
    return read_scores(run)
