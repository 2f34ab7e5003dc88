"""What NExt gains over lines, on runs that `driftline train` made: skill in weights, and accuracy of the models it writes.

    python benchmarks/nonlinear.py skill RUN [RUN...]       three forecasts of each run, five checkpoints ahead
    python benchmarks/nonlinear.py accuracy RUN [RUN...]    the same models, on 512 held-out problems, 2 samples each

Every forecast is written, from the checkpoints up to its cutoff alone, and compared with what the run saved later.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from driftline import open_trajectory
from driftline.checkpoints.opening import open_checkpoint
from driftline.checkpoints.trajectory import TensorSeries
from driftline.forecast.rank_one import is_matrix_of_a_layer, leading, read_matrix
from driftline.forecast.request import ForecastRequest
from driftline.lab.model import load
from driftline.lab.scoring import accuracy as scored
from driftline.lab.tasks import lab_task
from driftline.writing.extrapolate import extrapolate
from driftline.writing.storage import Storage
from tables import Column, Table

METHODS = ("next", "two-point", "damped", "least-squares", "blup")
SHARES, AHEAD = (0.4, 0.55, 0.7), 5  # of the run that is seen, and checkpoints ahead
PROBLEMS, SAMPLES = 512, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["skill", "accuracy"])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--keep", action="store_true", help="write the record of the documentation's table")
    arguments = parser.parse_args()
    measure = {"skill": skill, "accuracy": accuracy}[arguments.what]
    rows = [measure(run, *cutoff) for run in arguments.runs for cutoff in cutoffs(run)]
    table_of(arguments.what, rows).show(f"nonlinear-{arguments.what}", keep=arguments.keep)


def table_of(what: str, rows: list[dict[str, Any]]) -> Table:
    """The rows, and their mean."""
    figures = [key for key in rows[0] if key != "run"]
    rows = [*rows, {"run": "mean"} | {key: float(np.mean([row[key] for row in rows])) for key in figures}]
    decimals = 2 if what == "skill" else 3
    columns: tuple[Column, ...] = (
        {"key": "run", "title": "run, from step to step"},
        *({"key": key, "title": key, "decimals": decimals} for key in figures),
    )
    return Table(f"python benchmarks/nonlinear.py {what} RUN...", columns, rows, zero=False)


def cutoffs(run: Path) -> Iterator[tuple[int, int]]:
    """Steps of the last checkpoint seen, and of the one that is forecast."""
    steps = open_trajectory(run).steps
    for share in SHARES:
        row = round(share * (len(steps) - 1))
        yield steps[row], steps[min(row + AHEAD, len(steps) - 1)]


def skill(run: Path, cutoff: int, target: int) -> dict[str, Any]:
    """Skill of each method over all weights; beside that of `next` the most that a change of rank 1 of each matrix can have."""
    row: dict[str, Any] = {"run": f"{run.name}, {cutoff} to {target}"}
    for name in METHODS:
        with tempfile.TemporaryDirectory() as scratch:
            model = written(run, cutoff, target, name, Path(scratch))
            found, most = _skill(run, cutoff, target, model)
        row |= {name: found} | ({"rank 1 at best": most} if name == "next" else {})
    print(row, flush=True)
    return row


def written(run: Path, cutoff: int, target: int, method: str, scratch: Path) -> Path:
    """The model that a method forecasts from the checkpoints up to the cutoff."""
    out = scratch / "model"
    seen = open_trajectory(run, steps=f"0:{cutoff}")
    extrapolate(seen, out, ForecastRequest((target,), method), Storage(keep=()))
    return out


def _skill(run: Path, cutoff: int, target: int, model: Path) -> tuple[float, float]:
    """1 - squared error over that of holding, and that of the leading direction of each matrix's true change."""
    seen = open_trajectory(run).only([cutoff, target])
    forecast = open_checkpoint(model).tensors
    error = hold = explained = 0.0
    for tensor in seen:
        made = read_matrix(TensorSeries(tensor.name, tensor.shape, (forecast[tensor.name],)), 0)
        last, true = read_matrix(tensor, 0), read_matrix(tensor, 1)
        error += float(np.square(made - true, dtype=np.float64).sum())
        hold += float(np.square(last - true, dtype=np.float64).sum())
        explained += leading(true - last).sigma ** 2 if is_matrix_of_a_layer(tensor) else 0
    return 1 - error / hold, explained / hold


def accuracy(run: Path, cutoff: int, target: int) -> dict[str, Any]:
    """Sampled accuracy of the checkpoint held, the real one, and each method's model; greedy is printed beside it."""
    row: dict[str, Any] = {"run": f"{run.name}, {cutoff} to {target}"}
    row["held"], row["real"] = (score(run / f"checkpoint-{step}", run) for step in (cutoff, target))
    for name in METHODS:
        with tempfile.TemporaryDirectory() as scratch:
            row[name] = score(written(run, cutoff, target, name, Path(scratch)), run)
    return row


def score(folder: Path, run: Path) -> float:
    """Sampled accuracy on the run's own held-out problems."""
    settings = json.loads((run / "run.json").read_bytes())["settings"]
    model, tokenizer = load(folder)
    task = lab_task(settings["task"], settings["difficulty"])
    problems = task.held_out(PROBLEMS, settings["seed"], chat=tokenizer.chat_template is not None)
    found = scored(model, tokenizer, problems, seed=0, samples=SAMPLES)
    print(f"{folder}: greedy {found.greedy:.3f}, sampled {found.sampled:.3f}", flush=True)
    return float(found.sampled)


if __name__ == "__main__":
    main()
