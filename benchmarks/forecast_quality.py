"""Do forecasts that are closer in weights make better models? Accuracy on the lab's task, and skill in weights.

    python benchmarks/forecast_quality.py RUN [RUN...]      runs made by `driftline train`

For four cutoffs of each run every method forecasts a checkpoint that the run saved later; forecast, held
and real models are scored on the same held-out problems, 4 samples each: a standard error is about .006. Skill in weights in brackets.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from functools import reduce
from pathlib import Path

import numpy as np

from driftline import open_trajectory
from driftline.forecast.backtest import Scores, score
from driftline.forecast.extrapolators import methods
from driftline.forecast.observations import observe
from driftline.forecast.request import ForecastRequest
from driftline.lab.scoring import accuracy_of_folder
from driftline.writing.extrapolate import extrapolate

METHODS = ("two-point", "anchored", "damped", "blup", "least-squares", "relex")
PROBLEMS, SAMPLES = 512, 4


def sampled(folder: Path) -> float:
    return accuracy_of_folder(folder, PROBLEMS, 0, samples=SAMPLES)["sampled"]


def main(runs: list[Path]) -> None:
    print(f"{'':24}{'hold':>8}{'real':>8}" + "".join(f"{name:>16}" for name in METHODS))
    table = []
    for run in runs:
        trajectory = open_trajectory(run)
        observed, steps = observe(trajectory), list(trajectory.steps)
        scores = {name: reduce(Scores.__add__, score(observed, methods()[name]).values()) for name in METHODS}
        for share in (4, 6, 8, 10):
            cutoff = share * (len(steps) - 1) // 15
            target = min(cutoff + 5, len(steps) - 1)
            row = [sampled(run / f"checkpoint-{steps[cutoff]}"), sampled(run / f"checkpoint-{steps[target]}")]
            skills = []
            for name in METHODS:
                with tempfile.TemporaryDirectory() as scratch:
                    out = Path(scratch) / "model"
                    seen = open_trajectory(run, steps=f"0:{steps[cutoff]}")
                    extrapolate(seen, out, ForecastRequest((steps[target],), name))
                    row.append(sampled(out))
                    shutil.rmtree(out)
                here = (scores[name].cutoff == cutoff) & (scores[name].target == target)
                skills.append(float(scores[name].skill[here][0]))
            table.append(row)
            label = f"{run.name} {steps[cutoff]} to {steps[target]}"
            cells = "".join(f"{a:.3f} ({s:+.2f})".rjust(16) for a, s in zip(row[2:], skills, strict=True))
            print(f"{label:24}{row[0]:8.3f}{row[1]:8.3f}{cells}", flush=True)
    print(f"{'mean':24}" + "".join(f"{mean:8.3f}" for mean in np.mean(table, 0)[:2])
          + "".join(f"{mean:16.3f}" for mean in np.mean(table, 0)[2:]))  # fmt: skip


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
