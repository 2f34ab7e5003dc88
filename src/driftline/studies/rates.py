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
from driftline.files.record import UNSET, Figure, Record, UnsetType, read_record, write_record
from driftline.forecast.useful_rate import Estimate, useful_rate
from driftline.lab.settings import LabRun
from driftline.linearity.scan import scan
from driftline.studies.measures import lab_run, lab_scores
from driftline.studies.record import SUMS, Findings, LabRuns, StudyRecord

PREDICTIONS = "predictions.json"
RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
BATCHES = ((8, 2), (32,))  # problems of a step; of all seeds first those that take little time
SEEDS = (0, 1, 2)
STEPS, LONG = 30, 50  # of every run, and of that at the lowest rate, from whose first steps the predictions are made
WINDOW, SAFE = (0.25, 0.75), 0.5  # of kappa times the lowest rate
QUARTER = 0.25  # of the second rule
FALL = 0.2
WITHIN = 2.0
_FEWEST_RATES = 3  # of which one can be best
# Beside them, once each: runs of another kind, and the rates that they are tried at.
KINDS: Mapping[str, tuple[dict[str, Any], Sequence[float]]] = {
    "llama": ({"model": "llama"}, RATES),
    "qwen3": ({"model": "qwen3"}, RATES),
    "SGD": ({"optimizer": "sgd"}, (0.03, 0.1, 0.3, 1.0, 3.0)),
    "half of the rewards by coin": ({"reward": "noised"}, RATES),
}
_SHAPE: dict[str, Any] = {"score_every": 5, "held_out_problems": 128}
_QUICK: dict[str, Any] = {"score_every": 4, "held_out_problems": 16}


MODELS: Mapping[str, Mapping[str, bool]] = {  # see `useful_rate`
    "plain": {"through_momentum": False, "settled": False},
    "through momentum": {"through_momentum": True, "settled": False},
    "through momentum, settled": {"through_momentum": True, "settled": True},
}


class PredictedRate(Record, kw_only=True):
    """Of a batch and a seed by one model; intervals [low, high] of 95 %, None for an open end."""

    model: str
    kind: str | UnsetType = UNSET  # of run, where it is not the usual one
    batch: int
    seed: int
    rate: float
    steps: int
    factor: Figure
    factor_interval: list[Figure]
    noise_scale: Figure
    noise_scale_interval: list[Figure]
    persistence: Figure
    persistence_interval: list[Figure]
    written: str | None


class PredictedRates(Record):
    """`predictions.json`."""

    driftline: str
    predictions: list[PredictedRate]


class RanAt(Record):
    """A run at a rate: accuracy over its first steps, and whether it collapsed."""

    rate: float
    over_limit: Figure
    mean_sampled: float
    sampled: list[float]
    greedy: list[float]
    collapsed: bool


class Cell(Record):
    """What was predicted of a batch and a seed, and what came; None where the runs do not tell.

    `best` is what the rule is about; `best_at_the_end` the rate of the highest score at the last step that all have.
    """

    task: str
    prediction: PredictedRate
    runs: list[RanAt]
    best: float | None
    best_at_the_end: float | None
    nearest_to_a_quarter: float | None
    margin: float | None
    in_window: bool | None
    in_window_by_chance: float | None
    collapses_below: list[float]
    tried_below: int


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
        f"By the model {m}: {said}" for m in MODELS for said in _findings([r for r in rows if r.prediction.model == m])
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


def _findings(rows: Sequence[Cell]) -> list[str]:
    told = [row for row in rows if row.best is not None]
    found = []
    for row in told:
        p = row.prediction
        found.append(
            f"{_named(p)}: largest useful rate {(p.factor or 0) * p.rate:.1e} "
            f"({_range(p.factor_interval, p.rate)}) from {p.steps} steps at {p.rate:g}; best of the rates tried {row.best:g}, "
            f"{_where(row)}."
        )
    decided = [row for row in told if row.in_window is not None]
    if decided:
        hits, chance = (
            sum(row.in_window is True for row in decided),
            sum(row.in_window_by_chance or 0 for row in decided),
        )
        found.append(
            f"Rate: the best is between {WINDOW[0]:g} and {WINDOW[1]:g} of the limit in {hits} of {len(decided)} "
            f"(a rate drawn from those tried: {chance:.1f}); no rate tried lay there in {len(told) - len(decided)}."
        )
    near = [row for row in told if row.nearest_to_a_quarter is not None]
    if near:
        slow = [ran for row in near for ran in row.runs if (ran.over_limit or math.inf) <= QUARTER]
        found.append(
            f"Second rule: the best is the one nearest to {QUARTER:g} of the limit in "
            f"{sum(row.best == row.nearest_to_a_quarter for row in near)} of {len(near)}; "
            f"{sum(ran.collapsed for ran in slow)} of {len(slow)} runs at or below it collapsed."
        )
    below = sum(row.tried_below for row in rows)
    if below:
        fell = sum(len(row.collapses_below) for row in rows)
        above = [
            ran.collapsed for row in rows for ran in row.runs if ran.over_limit is not None and ran.over_limit >= SAFE
        ]
        found.append(
            f"Collapse: {fell} of {below} runs below {SAFE:g} of the limit collapsed, {sum(above)} of {len(above)} above it."
        )
    return [*found, *_noise_scales(rows)]


def _named(p: PredictedRate) -> str:
    return f"{p.kind + ', batch' if p.kind else 'Batch'} {p.batch}, seed {p.seed}"


def _where(row: Cell) -> str:
    over = next(ran.over_limit for ran in row.runs if ran.rate == row.best)
    verdict = {
        True: "as predicted",
        False: "not as predicted",
        None: "and none of those tried lies where it was predicted",
    }
    return f"{over or 0:.2f} of it, {verdict[row.in_window]} (ahead of the next by {row.margin or 0:.3f})"


def _range(ends: Sequence[Figure], unit: float = 1.0, form: str = ".1e") -> str:
    low, high = ((None if end is None else end * unit) for end in ends)
    return f"from {low or 0:{form}} up" if high is None else f"{low or 0:{form}} to {high:{form}}"


def _noise_scales(rows: Sequence[Cell]) -> list[str]:
    """Of the batches of a seed, of runs of the usual kind."""
    found, usual = [], [row.prediction for row in rows if not row.prediction.kind]
    for seed in dict.fromkeys(p.seed for p in usual):
        mine = sorted((p for p in usual if p.seed == seed), key=lambda p: p.batch)
        scales = [p.noise_scale for p in mine if p.noise_scale]
        if len(scales) > 1 and len(scales) == len(mine):
            ratio = max(scales) / min(scales)
            told = ", ".join(
                f"{scale:.0f} ({_range(p.noise_scale_interval, form='.0f')}) at {p.batch}"
                for p, scale in zip(mine, scales, strict=True)
            )
            found.append(
                f"Noise scale, seed {seed}: {told} problems a step; {ratio:.1f} between them, "
                f"{'as' if ratio <= WITHIN else 'not as'} predicted (at most {WITHIN:g})."
            )
    return found
