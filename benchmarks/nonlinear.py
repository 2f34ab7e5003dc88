"""What NExt gains over lines: skill in weights on the lab's runs, and accuracy of the models it writes.

    python benchmarks/nonlinear.py skill RUN [RUN...]     back-tests, every method on the same cutoffs and targets
    python benchmarks/nonlinear.py accuracy RUN           three forecasts, each written, loaded and scored

Runs are ones that `driftline train` made. Accuracy is on 512 held-out problems, 4 samples each.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from driftline import open_trajectory
from driftline.forecast.backtest import Scores, score
from driftline.forecast.extrapolators import methods
from driftline.forecast.moves import try_next
from driftline.forecast.observations import observe
from driftline.forecast.rank_one import is_matrix_of_a_layer
from driftline.forecast.request import ForecastRequest
from driftline.lab.model import load
from driftline.lab.scoring import accuracy as scored
from driftline.lab.tasks import lab_task
from driftline.linearity.names import layer_and_module
from driftline.writing.extrapolate import extrapolate
from tables import Column, Table

METHODS = ("two-point", "damped", "least-squares", "blup", "relex")
DISTANCES = (1, 2, 4, 8)  # checkpoints ahead
SHARES, AHEAD = (0.4, 0.55, 0.7), 5  # of the run that is seen, and checkpoints ahead
PROBLEMS, SAMPLES = 512, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["skill", "accuracy"])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--keep", action="store_true", help="write the record of the documentation's table")
    arguments = parser.parse_args()
    of_run = {"skill": skill, "accuracy": accuracy}[arguments.what]
    rows = []
    for run in arguments.runs:
        for row in of_run(run):
            print(row, flush=True)
            rows.append(row)
    named = [key for key in rows[0] if isinstance(rows[0][key], str | int)]
    figures = [key for key in rows[0] if key not in named]
    rows.append({named[0]: "mean"} | {key: float(np.mean([row[key] for row in rows])) for key in figures})
    columns: tuple[Column, ...] = (
        *({"key": key, "title": key} for key in named),
        *({"key": key, "title": key, "decimals": 2 if arguments.what == "skill" else 3} for key in figures),
    )
    table = Table(f"python benchmarks/nonlinear.py {arguments.what} RUN...", columns, rows, zero=False)
    table.show(f"nonlinear-{arguments.what}", keep=arguments.keep)


def skill(run: Path) -> Iterator[dict[str, Any]]:
    """A row for each distance: skill pooled over the cutoffs that `next` was trained at, for every method."""
    trajectory = open_trajectory(run)
    observed = observe(trajectory)
    groups, _ = try_next(trajectory, observed)
    matrices = {layer_and_module(tensor.name) for tensor in trajectory if is_matrix_of_a_layer(tensor)}
    whole = reduce(Scores.__add__, groups.values())
    inside = reduce(Scores.__add__, [scores for key, scores in groups.items() if key in matrices])
    others = {name: reduce(Scores.__add__, score(observed, methods()[name]).values()) for name in METHODS}
    for distance in DISTANCES:
        here = whole.target - whole.cutoff == distance
        if not here.any():
            continue
        row: dict[str, Any] = {"run": run.name, "checkpoints ahead": distance}
        row |= {"next": _pooled(whole, here), "next, its matrices": _pooled(inside, here)}
        pairs = set(zip(whole.cutoff[here].tolist(), whole.target[here].tolist(), strict=True))
        for name, scores in others.items():
            same = [pair in pairs for pair in zip(scores.cutoff.tolist(), scores.target.tolist(), strict=True)]
            assert sum(same) == len(pairs), "a method was not tested where next was"
            row[name] = _pooled(scores, np.array(same))
        yield row


def _pooled(scores: Scores, rows: np.ndarray) -> float:
    return float(1 - scores.error[rows].sum() / scores.hold_error[rows].sum())


def accuracy(run: Path) -> Iterator[dict[str, Any]]:
    """Two rows for each forecast: greedy and sampled accuracy of the model held, the real one, and each method's."""
    steps = open_trajectory(run).steps
    for share in SHARES:
        cutoff = round(share * (len(steps) - 1))
        target = min(cutoff + AHEAD, len(steps) - 1)
        found = {
            "held": _scored(run / f"checkpoint-{steps[cutoff]}", run),
            "real": _scored(run / f"checkpoint-{steps[target]}", run),
        }
        for name in ("next", "two-point", "damped", "least-squares"):
            with tempfile.TemporaryDirectory() as scratch:
                out = Path(scratch) / "model"
                extrapolate(
                    open_trajectory(run, steps=f"0:{steps[cutoff]}"), out, ForecastRequest((steps[target],), name)
                )
                found[name] = _scored(out, run)
        for place, kind in enumerate(("greedy", "sampled")):
            where = {"run": run.name, "from": steps[cutoff], "to": steps[target], "accuracy": kind}
            yield where | {name: pair[place] for name, pair in found.items()}


def _scored(folder: Path, run: Path) -> tuple[float, float]:
    """Greedy and sampled accuracy on the run's own held-out problems."""
    settings = json.loads((run / "run.json").read_bytes())["settings"]
    model, tokenizer = load(folder)
    task = lab_task(settings["task"], settings["difficulty"])
    problems = task.held_out(PROBLEMS, settings["seed"], chat=tokenizer.chat_template is not None)
    found = scored(model, tokenizer, problems, seed=0, samples=SAMPLES)
    return float(found.greedy), float(found.sampled)


if __name__ == "__main__":
    main()
