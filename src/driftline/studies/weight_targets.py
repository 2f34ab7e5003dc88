"""How far should one extrapolate, and could one have known without evaluating? (paper, Fig. 5)

From several late checkpoints of each run, two-point forecasts (from step 0, as the paper has it) at growing horizons
are scored on held-out problems. The best target is set beside what the run itself says before any evaluation: the
horizon that back-tests over the checkpoints up to that late one recommend, and the persistence length of its drift.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from driftline.checkpoints.trajectory import Trajectory, open_trajectory
from driftline.errors import InputError
from driftline.forecast.backtest import backtest
from driftline.forecast.extrapolate import Request, extrapolate
from driftline.forecast.observations import observe
from driftline.linearity.persistence import persistence
from driftline.studies.measures import spread
from driftline.studies.study import Outcome
from driftline.training.lab.settings import LabRun

SEEDS = (0, 1, 2)
RATES = (1e-5, 2e-5)
LATE = (1 / 3, 1 / 2, 2 / 3)  # of the run
HORIZONS = (0.1, 0.25, 0.5, 1.0, 2.0)  # of the late step
_PROBLEMS, _SAMPLES = 256, 4


def plan(quick: bool) -> dict[str, LabRun]:
    if quick:
        return {
            "1e-05, seed 0": LabRun(steps=12, save_every=1, score_every=12, prompts_per_step=2, held_out_problems=16)
        }
    return {
        f"{rate:g}, seed {seed}": LabRun(learning_rate=rate, seed=seed, score_every=150)
        for seed in SEEDS
        for rate in RATES
    }


def measure(runs: Mapping[str, Path], quick: bool) -> Outcome:
    """A row for each run and late checkpoint: the scores by target, the best one, and what was recommended."""
    rows = []
    for name, folder in runs.items():
        trajectory = open_trajectory(folder)
        steps = np.array(trajectory.steps)
        lates = sorted({int(steps[np.abs(steps - share * steps[-1]).argmin()]) for share in LATE})
        scratch = folder.parent / f".{folder.name}.forecasts"
        try:
            rows += [of_late(name, folder, trajectory, late, scratch, quick) for late in lates]
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return Outcome(rows, _findings(rows), {"correlations": correlations(rows)})


def of_late(name: str, folder: Path, trajectory: Trajectory, late: int, scratch: Path, quick: bool) -> dict[str, Any]:
    """Scores of the forecasts from step 0 and `late`, beside what the checkpoints up to `late` recommend."""
    from driftline.training.lab.scoring import accuracy_of_folder

    try:
        settings = json.loads((folder / "run.json").read_text())["settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} is no run of driftline train ({error}): leave it out of --runs") from error
    if settings["task"] != "sums":
        raise InputError(
            f"{folder} is of the task {settings['task']}: this study scores sums only, leave it out of --runs"
        )
    seen = trajectory.only([step for step in trajectory.steps if step <= late])
    observed = observe(seen)
    tests = backtest(observed)
    kept = (
        persistence(observed.total, observed.clock, observed.beta1, tests.test.least_dimension) if tests.test else None
    )
    count, samples = (16, 1) if quick else (_PROBLEMS, _SAMPLES)

    def score(model: Path) -> float:
        return accuracy_of_folder(model, count, settings["seed"], samples=samples)["sampled"]

    horizons = sorted({max(round(late * horizon), 1) for horizon in HORIZONS})
    request = Request(tuple(late + horizon for horizon in horizons), method="two-point", seen=(seen.steps[0], late))
    extrapolate(seen, scratch, request, overwrite=True)
    models = [scratch if len(horizons) == 1 else scratch / f"checkpoint-{late + h}" for h in horizons]
    held, scores = score(trajectory.checkpoints[trajectory.steps.index(late)].path), [score(model) for model in models]
    best = int(np.argmax(scores))
    return {
        "run": name,
        "late": late,
        "held": held,
        "horizons": horizons,
        "scores": scores,
        "best_horizon": horizons[best] if scores[best] > held else 0,
        "best_score": max(scores[best], held),
        "recommended_horizon": tests.horizons["two-point"],
        "recommended_by_best_method": tests.horizons[tests.best] if tests.best != "hold" else 0,
        "best_method": tests.best,
        "persistence": kept.length if kept else None,
    }


def correlations(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Spearman's rank correlation of the best horizon with each recommendation; None where one of them does not vary."""

    def ranks(values: list[float]) -> np.ndarray:
        found = np.asarray(values, float)
        return np.array([(found < value).sum() + (found == value).sum() / 2 for value in found])

    best = [row["best_horizon"] for row in rows]
    result: dict[str, float | None] = {}
    for key in ("recommended_horizon", "recommended_by_best_method", "persistence", "late"):
        pairs = [
            (one, row[key])
            for one, row in zip(best, rows, strict=True)
            if row[key] is not None and np.isfinite(row[key])
        ]
        one, other = (
            (ranks(list(values)) for values in zip(*pairs, strict=True)) if pairs else (np.zeros(0), np.zeros(0))
        )
        varies = len(pairs) > 2 and np.ptp(one) > 0 and np.ptp(other) > 0
        result[key] = float(np.corrcoef(one, other)[0, 1]) if varies else None
    return result


def _findings(rows: list[dict[str, Any]]) -> list[str]:
    gains = [row["best_score"] - row["held"] for row in rows]
    helped = sum(gain > 0 for gain in gains)
    found = [
        f"Over {len(rows)} late checkpoints, the best two-point target scores {spread(gains)} above the checkpoint itself; some "
        f"target is better in {helped}. It lies {spread([row['best_horizon'] / row['late'] for row in rows])} of the late step ahead."
    ]
    said = ", ".join(
        f"{label} {value:.2f}" if value is not None else f"{label} unknown"
        for label, value in zip(
            (
                "the back-tests' horizon for two-point",
                "that of their best method",
                "the persistence length",
                "the late step itself",
            ),
            correlations(rows).values(),
            strict=True,
        )
    )
    found.append(f"Rank correlation of the best horizon with what the run says before any evaluation: {said}.")
    short = [row for row in rows if row["recommended_horizon"] < row["best_horizon"]]
    found.append(
        f"The back-tests stop short of the best target in {len(short)} of {len(rows)}, and go past it in "
        f"{sum(row['recommended_horizon'] > row['best_horizon'] for row in rows)}: skill in weights and accuracy are different targets."
    )
    return found
