"""Do the checkpoints of a slow run say how much faster it could go? PredictedRates first, then the runs they are of.

Each batch size and seed is run at the lowest learning rate. From the Gram of that run, and nothing else, follow the
largest useful rate, kappa times its own, and the noise scale of its gradient (`forecast.useful_rate`). They are
written to `predictions.json`, which is never changed, before any run at another rate is begun. The rule, fixed before
any of these runs was made, is in docs/studies.md:

    rate      of the rates tried, the best lies between a quarter and three quarters of kappa times the lowest
    collapse  no run below half of kappa times the lowest collapses
    noise     the noise scales at all batches of a seed lie within a factor of two

The best rate is that with the highest accuracy (held out, sampled) on average over the scores of the first steps, so
that neither a slow run nor one that collapses is best. A run collapses where it ends `FALL` below its own best score.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from driftline._version import __version__
from driftline.checkpoints.configuration import adam_beta1
from driftline.checkpoints.trajectory import open_trajectory
from driftline.errors import InputError
from driftline.files.record import UNSET, Figure, read_record, write_record
from driftline.forecast.useful_rate import Estimate, useful_rate
from driftline.lab.settings import LabRun
from driftline.linearity.scan import scan
from driftline.studies.measures import lab_run, lab_scores
from driftline.studies.predicted_rates import (
    NOISED,
    QUARTER,
    SAFE,
    WINDOW,
    Cell,
    PredictedRate,
    PredictedRates,
    RanAt,
    findings,
)
from driftline.studies.record import STRATEGY, SUMS, Findings, LabRuns, StudyRecord

PREDICTIONS = "predictions.json"
RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
BATCHES = ((8, 2), (32,))  # problems of a step; of all seeds first those that take little time
SEEDS = (0, 1, 2)
STEPS, LONG = 30, 50  # of every run, and of that at the lowest rate, from whose first steps the predictions are made
FALL = 0.2
_FEWEST_RATES = 3  # of which one can be best
# Beside them in the strategy lab, once each: runs of another kind, and the rates that they are tried at.
KINDS: Mapping[str, tuple[dict[str, Any], Sequence[float]]] = {
    "llama": ({"model": "llama"}, RATES),
    "qwen3": ({"model": "qwen3"}, RATES),
    "SGD": ({"optimizer": "sgd"}, (0.03, 0.1, 0.3, 1.0, 3.0)),
    NOISED: ({"reward": "noised"}, RATES),
}
_SHAPE: dict[str, Any] = {"score_every": 5, "held_out_problems": 128}
_QUICK: dict[str, Any] = {"score_every": 4, "held_out_problems": 16}


MODELS: Mapping[str, Mapping[str, bool]] = {  # see `useful_rate`
    "plain": {"through_momentum": False, "settled": False},
    "through momentum": {"through_momentum": True, "settled": False},
    "through momentum, settled": {"through_momentum": True, "settled": True},
}


class RatesRecord(StudyRecord, kw_only=True):
    rows: list[Cell]


RECORD = RatesRecord


@dataclass(frozen=True)
class _Run:
    folder: Path
    settings: LabRun


def plan(quick: bool, task: str = SUMS) -> LabRuns:
    """Small batches first, of each seed, then other kinds, then large ones; of each the lowest rate first."""
    if quick:
        return _cell_plan(task, "", {}, (RATES[0], RATES[2]), BATCHES[0][1], 0, quick=True)
    usual: dict[str, Any] = {}
    small, large = ([("", usual, RATES, batch, seed) for seed in SEEDS for batch in together] for together in BATCHES)
    kinds = [(kind, changed, rates, BATCHES[0][0], SEEDS[0]) for kind, (changed, rates) in KINDS.items()]
    kinds = kinds if task == STRATEGY else []
    return {
        label: run
        for kind, changed, rates, batch, seed in (*small, *kinds, *large)
        for label, run in _cell_plan(task, kind, changed, rates, batch, seed, quick=False).items()
    }


def _cell_plan(
    task: str, kind: str, changed: Mapping[str, Any], rates: Sequence[float], batch: int, seed: int, *, quick: bool
) -> dict[str, LabRun]:
    """The runs of a kind, a batch and a seed: that at the lowest rate is longer, and saves what predictions are made from."""
    short, long, every = (4, 20, 1) if quick else (STEPS, LONG, 2)
    before = f"{kind}, " if kind else ""
    return {
        f"{before}{rate:g}, batch {batch}, seed {seed}": LabRun(
            task=task,
            learning_rate=rate,
            prompts_per_step=batch,
            seed=seed,
            steps=long if rate == rates[0] else short,
            save_every=every if rate == rates[0] else short,
            **(_QUICK if quick else _SHAPE),
            **changed,
        )
        for rate in rates
    }


def _kind(settings: LabRun) -> str:
    """Of a run: which of `KINDS`, or the usual one, which has no name."""
    usual = LabRun()
    names = {key for changed, _ in KINDS.values() for key in changed}
    changed = {key: getattr(settings, key) for key in names if getattr(settings, key) != getattr(usual, key)}
    known = (kind for kind, (of_kind, _) in KINDS.items() if of_kind == changed)
    return next(known, ", ".join(str(value) for _, value in sorted(changed.items())))


def _which(settings: LabRun) -> tuple[str, int, int]:
    """What predictions are made for: a kind of run, a batch and a seed."""
    return _kind(settings), settings.prompts_per_step, settings.seed


def _predicted_for(row: PredictedRate) -> tuple[str, int, int]:
    return row.kind or "", row.batch, row.seed


def parts(plan: LabRuns) -> Iterator[tuple[LabRuns, LabRuns]]:
    """Of each kind, batch and seed, the run that predictions are made from, and those that they are of."""
    for cell in dict.fromkeys(map(_which, plan.values())):
        mine = {label: one for label, one in plan.items() if _which(one) == cell}
        lowest = min(settings.learning_rate for settings in mine.values())
        first = {label: settings for label, settings in mine.items() if settings.learning_rate == lowest}
        yield first, {label: settings for label, settings in mine.items() if label not in first}


def register(out: Path, first: Mapping[str, Path], others: Mapping[str, Path]) -> None:
    """Write what is predicted from the first runs, before the others are begun; what is written stays as it is.

    Raises:
        InputError: one of the others is there, and nothing was predicted of it.
    """
    path = out / PREDICTIONS
    found = _written(path)
    known = set(map(_predicted_for, found))
    new = [run for run in _opened(first) if _which(run.settings) not in known]
    if not new:
        return
    begun = [folder for folder in others.values() if folder.exists()]
    if begun:
        raise InputError(f"{begun[0]} was made before anything was predicted of it: begin in another folder with --out")
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    rows = [*found, *(_prediction(run, model, written=now) for run in new for model in MODELS)]
    write_record(path, PredictedRates(driftline=__version__, predictions=rows))


def measure(runs: Mapping[str, Path], quick: bool) -> Findings:
    """A row for each kind, batch and seed that has a prediction and three rates."""
    cells: dict[tuple[str, tuple[str, int, int]], list[_Run]] = {}
    for run in _opened(runs):
        cells.setdefault((run.settings.task, _which(run.settings)), []).append(run)
    ordered = [sorted(mine, key=lambda run: run.settings.learning_rate) for mine in cells.values()]
    rows = [_cell(mine, model) for model in MODELS for mine in ordered]
    told = [
        f"By the model {m}: {said}" for m in MODELS for said in findings([r for r in rows if r.prediction.model == m])
    ]
    return Findings(rows, told)


def _opened(runs: Mapping[str, Path]) -> list[_Run]:
    return [_Run(folder, lab_run(folder).settings) for folder in runs.values()]


def _written(path: Path) -> list[PredictedRate]:
    return read_record(path, PredictedRates, what="driftline study rates").predictions if path.is_file() else []


def _prediction(run: _Run, model: str, *, written: str | None = None) -> PredictedRate:
    """From the checkpoints of a run.

    Raises:
        InputError: there are too few.
    """
    trajectory = open_trajectory(run.folder)
    trajectory = trajectory.only([step for step in trajectory.steps if step <= LONG])
    steps, settings = np.asarray(trajectory.steps), run.settings
    gram = sum(tensor.gram for tensor in scan(trajectory, clock=steps.astype(float), sample=0))
    beta1, _ = adam_beta1(trajectory)
    found = useful_rate(np.asarray(gram), steps, beta1, **MODELS[model])
    if found is None:
        raise InputError(f"{run.folder} has too few checkpoints in its first {LONG} steps: save one every few steps")
    batch = settings.prompts_per_step
    return PredictedRate(
        model=model,
        kind=_kind(settings) or UNSET,
        batch=batch,
        seed=settings.seed,
        rate=settings.learning_rate,
        steps=found.span,
        factor=found.factor.value,
        factor_interval=_ends(found.factor),
        noise_scale=found.noise.value * batch,
        noise_scale_interval=_ends(found.noise, batch),
        persistence=found.persistence.value,
        persistence_interval=_ends(found.persistence),
        written=written,
    )


def _ends(estimate: Estimate, unit: float = 1.0) -> list[Figure]:
    return [end * unit if math.isfinite(end) else None for end in (estimate.low, estimate.high)]


def _cell(runs: Sequence[_Run], model: str) -> Cell:
    """What came of a batch and a seed; its runs in order of rate."""
    lowest = runs[0]
    rate = lowest.settings.learning_rate
    registered = [
        row
        for row in _written(lowest.folder.parent.parent / PREDICTIONS)
        if (row.model, row.rate, _predicted_for(row)) == (model, rate, _which(lowest.settings))
    ]
    prediction = registered[0] if registered else _prediction(lowest, model)
    limit = None if prediction.factor is None else prediction.factor * rate
    until = min(run.settings.steps for run in runs)
    rows = [_ran(run, limit, until) for run in runs]
    ranked = sorted(rows, key=lambda row: -row.mean_sampled)
    able = len(rows) >= _FEWEST_RATES and limit is not None
    best = ranked[0].rate if able else None
    inside = [row.rate for row in rows if row.over_limit is not None and WINDOW[0] <= row.over_limit <= WINDOW[1]]
    below = [row for row in rows if row.over_limit is not None and row.over_limit < SAFE]
    return Cell(
        task=lowest.settings.task,
        prediction=prediction,
        runs=rows,
        best=best,
        best_at_the_end=max(rows, key=lambda row: row.sampled[-1]).rate if able else None,
        nearest_to_a_quarter=min(rows, key=lambda row: abs(math.log(row.rate / (limit * QUARTER)))).rate
        if able and limit
        else None,
        margin=ranked[0].mean_sampled - ranked[1].mean_sampled if able else None,
        in_window=best in inside if able and inside else None,
        in_window_by_chance=len(inside) / len(rows) if able and inside else None,
        collapses_below=[row.rate for row in below if row.collapsed],
        tried_below=len(below),
    )


def _ran(run: _Run, limit: float | None, until: int) -> RanAt:
    scored = [row for row in lab_scores(run.folder) if row.step <= until]
    sampled = [row.sampled for row in scored]
    rate = run.settings.learning_rate
    return RanAt(
        rate=rate,
        over_limit=None if limit is None else rate / limit,
        mean_sampled=float(np.mean(sampled[1:] or sampled)),
        sampled=sampled,
        greedy=[row.greedy for row in scored],
        collapsed=max(sampled) - sampled[-1] > FALL,
    )
