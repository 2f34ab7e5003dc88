"""`driftline demo`: the main job on this machine, from the shipped base model to a forecast model and its score.

A real GRPO run is made on the spot; nothing is canned. A finished run in the demo's folder is kept, so a
second call goes on from there.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from driftline import terminal
from driftline.checkpoints.inspection import inspect
from driftline.checkpoints.trajectory import open_trajectory
from driftline.errors import InputError
from driftline.files.json import json_text
from driftline.files.output import output_folder
from driftline.forecast import backtest
from driftline.forecast.observations import observe
from driftline.forecast.request import ForecastRequest
from driftline.lab.run import train
from driftline.lab.settings import LabRun
from driftline.linearity.analysis import analyze
from driftline.progress import progress_bar
from driftline.report import analysis
from driftline.report import backtest as backtest_page
from driftline.writing.extrapolate import extrapolate

FULL = LabRun()
QUICK = LabRun(steps=16, save_every=2, prompts_per_step=4, held_out_problems=64)
_SCORED_SAMPLES = 8  # completions of each held-out problem


def demo(out: Path, *, quick: bool = False, quiet: bool = False) -> None:
    """Train, inspect, analyze, back-test, extrapolate and score, each into its folder in `out`."""
    settings = QUICK if quick else FULL
    run = out / "run"
    rows = _finished_run(run, settings)
    if rows is None:
        print(f"1/6 training: {settings.steps} steps of GRPO on a small model, in {run}", flush=True)
        rows = train(run, settings, overwrite=True, on_step=terminal.training_step(settings.steps, quiet=quiet))
    else:
        print(f"1/6 training: already done, in {run}")
    print("\n2/6 inspecting the run\n", flush=True)
    terminal.inspection(inspect(open_trajectory(run)))
    print("\n3/6 analysing every weight of every checkpoint\n", flush=True)
    _analyze(run, out / "analysis", quiet=quiet)
    terminal.accuracy(rows)
    print("\n4/6 back-testing: how far ahead can this run be forecast?\n", flush=True)
    horizon = _backtest(run, out / "analysis", out / "backtest")
    print("\n5/6 extrapolating\n", flush=True)
    forecasts = _extrapolate(run, out, horizon, quiet=quiet)
    print("\n6/6 scoring the forecasts beside the checkpoints they came from\n", flush=True)
    _score(run, out, settings, forecasts, quiet=quiet)
    print(f"\nOpen {out / 'analysis' / 'report.html'} in a browser.")
    print("For a run of your own: driftline analyze RUN --out DIR")


def _analyze(run: Path, result: Path, *, quiet: bool) -> None:
    trajectory = open_trajectory(run)
    with output_folder(result, overwrite=True) as folder:
        with progress_bar("reading weights", trajectory.nbytes, quiet=quiet) as advance:
            summary = analyze(trajectory, folder, progress=advance)
        (folder / "summary.json").write_text(json_text(summary))
        analysis.write(folder, summary, f"driftline analyze {run} --out {result}")
    terminal.analysis(summary, result)
    print()


def _backtest(run: Path, measured: Path, result: Path) -> float:
    """The recommended horizon, in steps."""
    with output_folder(result, overwrite=True, mark=backtest.MARK) as folder:
        record = backtest.write(folder, observe(open_trajectory(run), analysis=measured), run=str(run), clock="step")
        backtest_page.write(folder, record, f"driftline backtest {run} --analysis {measured} --out {result}")
    terminal.backtest(record, result)
    return float(record["recommended_horizon"])


def _extrapolate(run: Path, out: Path, horizon: float, *, quiet: bool) -> list[tuple[str, Path]]:
    """Two forecasts: of the last checkpoint from the first two thirds, which can be checked; and beyond the end."""
    steps = open_trajectory(run).steps
    cut, last, interval = steps[2 * len(steps) // 3], steps[-1], steps[-1] - steps[-2]
    beyond = last + round(max(horizon, interval))

    def forecast(seen: str, target: int, folder: Path) -> tuple[str, Path]:
        print(f"driftline extrapolate {run} --steps {seen} --to {target} --out {folder}")
        outcome = extrapolate(
            open_trajectory(run, steps=seen), folder, ForecastRequest((target,)), overwrite=True,
            progress=partial(progress_bar, quiet=quiet),
        )  # fmt: skip
        terminal.forecast(outcome, folder)
        print()
        record = outcome.records[0]
        reached = record.get("reached", target) if record["method"] != "hold" else record["steps"][-1]
        return f"step {reached:g}, forecast from steps {seen.replace(':', ' to ')}", folder

    return [
        forecast(f"0:{cut}", last, out / "hindsight"),
        forecast(f"0:{last}", beyond, out / "forecast"),
    ]


def _score(run: Path, out: Path, settings: LabRun, forecasts: list[tuple[str, Path]], *, quiet: bool) -> None:
    from driftline.lab.scoring import accuracy_of_folder

    steps = open_trajectory(run).steps
    cut, last = steps[2 * len(steps) // 3], steps[-1]
    hindsight, forecast = forecasts
    models = (
        (f"step {cut}, trained", run / f"checkpoint-{cut}"),
        hindsight,
        (f"step {last}, trained", run / f"checkpoint-{last}"),
        forecast,
    )
    rows: list[dict[str, Any]] = []
    with progress_bar("scoring", len(models), quiet=quiet, unit="models") as advance:
        for name, folder in models:
            scores = accuracy_of_folder(folder, settings.held_out_problems, settings.seed, samples=_SCORED_SAMPLES)
            rows.append({"model": name, "folder": str(folder), **scores})
            advance(1)
    (out / "scores.json").write_text(
        json_text({"problems": settings.held_out_problems, "samples": _SCORED_SAMPLES, "rows": rows})
    )
    terminal.scores(rows, settings.held_out_problems, _SCORED_SAMPLES)


def _same(record: dict[str, Any], settings: LabRun) -> bool:
    try:
        return LabRun(**record["settings"]) == settings
    except (KeyError, TypeError):
        return False


def _finished_run(run: Path, settings: LabRun) -> list[dict[str, float]] | None:
    """The accuracy rows of a finished run with these settings, or None where training has to start."""
    try:
        record = json.loads((run / "run.json").read_text())
        rows = [json.loads(line) for line in (run / "accuracy.jsonl").read_text().splitlines()]
    except (OSError, ValueError):
        if run.is_dir() and any(run.iterdir()):
            raise InputError(f"{run} holds files that are not the demo's: choose another folder with --out") from None
        return None
    if record.get("completed") and not _same(record, settings):
        raise InputError(f"{run} holds a finished run with other settings: choose another folder with --out to keep it")
    return rows if record.get("completed") else None
