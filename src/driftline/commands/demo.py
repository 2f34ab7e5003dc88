"""`driftline demo`: the main job on this machine, from the shipped base model to a forecast model and its score.

A real GRPO run is made on the spot; nothing is canned. A finished run in the demo's folder is kept, so a
second call goes on from there. Each stage is the command of its name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from driftline.commands import analyze, backtest, extrapolate, inspect, train
from driftline.commands.options import Output, Printing, Quiet, Source
from driftline.commands.requests import command_line
from driftline.errors import InputError
from driftline.lab.settings import LabRun

if TYPE_CHECKING:
    from driftline.lab.record import DemoScores, ScoredStep

FULL = LabRun()
QUICK = LabRun(steps=16, save_every=2, prompts_per_step=4, held_out_problems=64)
_SCORED_SAMPLES = 8  # completions of each held-out problem


@dataclass(frozen=True, kw_only=True)
class Demo:
    """The main job on this machine: train, analyze, back-test, extrapolate, score."""

    out: Annotated[Path, arg(metavar="DIR")] = Path("driftline-demo")
    """the demo's folder; a second call continues from what is there"""
    quick: bool = False
    """a smoke-sized run of under 90 seconds"""
    printing: Quiet = Quiet()

    @property
    def settings(self) -> LabRun:
        return QUICK if self.quick else FULL

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
    return _score(request, forecasts)


def show(scores: DemoScores, request: Demo) -> None:
    from driftline import terminal

    terminal.scores(scores)
    print(f"\nOpen {request.out / 'analysis' / 'report.html'} in a browser.")
    print("For a run of your own: driftline analyze RUN --out DIR")


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
    """Two forecasts: of the last checkpoint from the first two thirds, which can be checked; and beyond the end."""
    cut, last, interval = _places(request)
    beyond = last + round(max(horizon, interval))
    return [
        _forecast(request, f"0:{cut}", last, request.out / "hindsight"),
        _forecast(request, f"0:{last}", beyond, request.out / "forecast"),
    ]


def _forecast(request: Demo, seen: str, target: int, folder: Path) -> tuple[str, Path]:
    """What was forecast, in words, and where it lies."""
    told = extrapolate.Extrapolate(
        source=Source(run=request.source.run, steps=seen), output=extrapolate.ModelOutput(out=folder), to=str(target)
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
    """The step two thirds into the run, its last one, and the last interval."""
    steps = request.source.open().steps
    return steps[2 * len(steps) // 3], steps[-1], steps[-1] - steps[-2]


def _score(request: Demo, forecasts: list[tuple[str, Path]]) -> DemoScores:
    from driftline.files.record import write_record
    from driftline.lab.record import DemoScores, ModelScore
    from driftline.lab.scoring import accuracy_of_folder
    from driftline.progress import progress_bar

    cut, last, _ = _places(request)
    hindsight, forecast = forecasts
    models = (
        (f"step {cut}, trained", request.run / f"checkpoint-{cut}"),
        hindsight,
        (f"step {last}, trained", request.run / f"checkpoint-{last}"),
        forecast,
    )
    problems, seed = request.settings.held_out_problems, request.settings.seed
    rows = []
    with progress_bar("scoring", len(models), quiet=request.printing.quiet, unit="models") as advance:
        for name, folder in models:
            scores = accuracy_of_folder(folder, problems, seed, samples=_SCORED_SAMPLES)
            rows.append(ModelScore(model=name, folder=str(folder), **scores))
            advance(1)
    record = DemoScores(problems=problems, samples=_SCORED_SAMPLES, rows=rows)
    write_record(request.out / "scores.json", record)
    return record


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
