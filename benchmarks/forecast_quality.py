"""Do forecasts that are closer in weights make better models? Accuracy on the lab's task, and skill in weights.

    python benchmarks/forecast_quality.py RUN [RUN...]      runs made by `driftline train`

For four cutoffs of each run every method forecasts a checkpoint that the run saved later; forecast, held
and real models are scored on the same held-out problems, 4 samples each: a standard error is about .006.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from driftline import open_trajectory
from driftline.forecast.backtest import Scores, score
from driftline.forecast.extrapolators import methods
from driftline.forecast.observations import observe
from driftline.forecast.request import ForecastRequest
from driftline.lab.scoring import accuracy_of_folder
from driftline.writing.extrapolate import extrapolate
from tables import Column, Table

METHODS = ("two-point", "anchored", "damped", "blup", "least-squares", "relex")
PROBLEMS, SAMPLES = 512, 4


def sampled(folder: Path) -> float:
    return accuracy_of_folder(folder, PROBLEMS, 0, samples=SAMPLES).sampled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--keep", action="store_true", help="write the record of the documentation's table")
    arguments = parser.parse_args()
    rows = [row for run in arguments.runs for row in of_run(run)]
    figures = ("held", "real", *METHODS)
    rows.append({"run": "mean"} | {key: float(np.mean([row[key] for row in rows])) for key in figures})
    columns: tuple[Column, ...] = (
        {"key": "run", "title": "run, from step to step"},
        *({"key": key, "title": key, "decimals": 3} for key in figures),
    )
    table = Table("python benchmarks/forecast_quality.py RUN...", columns, rows, zero=False)
    table.show("forecast-quality", keep=arguments.keep)


def of_run(run: Path) -> Iterator[dict[str, Any]]:
    """A row for each cutoff; the skills in weights are printed as they come."""
    trajectory = open_trajectory(run)
    observed, steps = observe(trajectory), list(trajectory.steps)
    scores = {name: reduce(Scores.__add__, score(observed, methods()[name]).values()) for name in METHODS}
    for share in (4, 6, 8, 10):
        cutoff = share * (len(steps) - 1) // 15
        target = min(cutoff + 5, len(steps) - 1)
        held, real = (sampled(run / f"checkpoint-{steps[place]}") for place in (cutoff, target))
        row: dict[str, Any] = {"run": f"{run.name}, {steps[cutoff]} to {steps[target]}", "held": held, "real": real}
        for name in METHODS:
            with tempfile.TemporaryDirectory() as scratch:
                out = Path(scratch) / "model"
                seen = open_trajectory(run, steps=f"0:{steps[cutoff]}")
                extrapolate(seen, out, ForecastRequest((steps[target],), name))
                row[name] = sampled(out)
            here = (scores[name].cutoff == cutoff) & (scores[name].target == target)
            print(f"{row['run']}, {name}: skill in weights {float(scores[name].skill[here][0]):+.2f}", flush=True)
        yield row


if __name__ == "__main__":
    main()
