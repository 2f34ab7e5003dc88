"""Is re-grounding faster than RL, and is it more than a larger learning rate? (paper, Fig. 6 and Table 2)

Standard RL and several schedules of re-grounding, each at the same learning rates and seeds. For each run: the RL
steps, and the seconds of training (at the run's median pace, so that what else the machine does counts little), until accuracy on held-out problems (sampled at temperature 1) has reached a
threshold and holds it at the next score too. Two ways of counting a speed-up:

    same rate    standard RL's steps over the schedule's, both at that learning rate (as the paper counts)
    best rates   the same, each at the learning rate that takes it there soonest (median over seeds)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from driftline.errors import InputError
from driftline.files.record import Figure, Record
from driftline.lab.settings import LabRun
from driftline.studies.curves import (
    INFINITE,
    STANDARD,
    BestCurve,
    Curve,
    MedianCurve,
    envelopes,
    medians,
    reached,
    read_curve,
)
from driftline.studies.record import STRATEGY, SUMS, Findings, StudyRecord

SCHEDULES: Mapping[str, dict[str, Any]] = {
    STANDARD: {},
    "5+5": {"m": 5, "n": 5},
    "10+10": {"m": 10, "n": 10},
    "20+20": {"m": 20, "n": 20},
    "20+20 guarded": {"m": 20, "n": 20, "accept": "reward"},
    "10+20 damped, guarded": {"m": 10, "n": 20, "accept": "reward", "jump": "damped"},
}
EFFOPD: Mapping[str, dict[str, Any]] = {  # lengths chosen on a small validation set, cycles of 5, 10, 20, ... steps
    "5+5 doubling, validated": {"m": 5, "n": 5, "accept": "validation", "spacing": "doubling"}
}
IN_STRATEGY = {name: SCHEDULES[name] for name in (STANDARD, "10+10", "20+20", "20+20 guarded")} | dict(EFFOPD)
RATES = (1e-5, 3e-5, 1e-4)
SEEDS = (0, 1, 2)
THRESHOLDS = (0.6, 0.75, 0.9, 0.95)
_FULL: dict[str, Any] = {"steps": 80, "score_every": 4, "save_every": 80, "prompts_per_step": 8}
_QUICK: dict[str, Any] = {"steps": 8, "score_every": 4, "save_every": 8, "prompts_per_step": 2, "held_out_problems": 32}


class AtRate(Record):
    """A schedule at a learning rate: when its accuracy comes to a threshold, median over seeds; None is never."""

    schedule: str
    rate: float
    threshold: float
    seeds: list[int]
    steps_by_seed: list[Figure]
    steps: Figure
    seconds: Figure
    seconds_by_seed: list[Figure]
    final: float
    best: float
    rolled_back: int
    speedup_same_rate: Figure


class AtBestRate(Record):
    """A schedule at its best learning rate, beside standard RL at its own."""

    schedule: str
    threshold: float
    rate: float
    steps: Figure
    seconds: Figure
    steps_by_seed: list[Figure]
    speedup_steps: Figure
    speedup_seconds: Figure
    speedup_by_seed: dict[str, Figure]


class SpeedupRecord(StudyRecord, kw_only=True):
    rows: list[AtRate]
    findings: list[str]
    best: list[AtBestRate]
    curves: list[MedianCurve]
    best_curves: list[BestCurve]
    seconds: float


RECORD = SpeedupRecord


def plan(quick: bool, task: str = SUMS) -> dict[str, LabRun]:
    """Seeds outermost, so that what drifts on the machine meets all schedules alike."""
    if quick:
        schedules: Mapping[str, dict[str, Any]] = {STANDARD: {}, "4+4": {"m": 4, "n": 4}}
        rates: Sequence[float] = RATES[:1]
        seeds: Sequence[int] = SEEDS[:1]
        shape = _QUICK
    else:
        schedules, rates, seeds, shape = (IN_STRATEGY if task == STRATEGY else SCHEDULES), RATES, SEEDS, _FULL
    return {
        f"{schedule}, {rate:g}, seed {seed}": LabRun(task=task, learning_rate=rate, seed=seed, **shape, **options)
        for seed in seeds
        for rate in rates
        for schedule, options in schedules.items()
    }


def measure(runs: Mapping[str, Path], quick: bool) -> Findings:
    """Steps and seconds to every threshold, by schedule and learning rate, and the speed-ups they make."""
    curves = [read_curve(folder) for folder in runs.values()]
    schedules = list(dict.fromkeys(curve.schedule for curve in curves))
    schedules.sort(key=lambda schedule: schedule != STANDARD)
    if STANDARD not in schedules:
        raise InputError("no run of standard RL (without --m and --n) is among them: add one to --runs to compare with")
    places = sorted({(schedules.index(curve.schedule), curve.rate) for curve in curves})
    pairs = [(schedules[place], rate) for place, rate in places]
    rows = [row for threshold in THRESHOLDS for row in _at_threshold(curves, pairs, threshold)]
    best = [found for threshold in THRESHOLDS for found in _best(curves, rows, schedules, threshold)]
    drawn = medians(curves, pairs)
    return Findings(rows, _findings(rows, best), {"best": best, "curves": drawn, "best_curves": envelopes(drawn)})


def _at_threshold(curves: Sequence[Curve], pairs: Sequence[tuple[str, float]], threshold: float) -> list[AtRate]:
    """A row for each schedule and learning rate, beside standard RL at that rate."""
    found: dict[tuple[str, float], AtRate] = {}
    for schedule, rate in pairs:  # standard RL comes first
        chosen = [curve for curve in curves if (curve.schedule, curve.rate) == (schedule, rate)]
        steps, seconds = (list(values) for values in zip(*(reached(c, threshold) for c in chosen), strict=True))
        median = _finite(float(np.median(steps)))
        standard = found.get((STANDARD, rate))
        base = median if schedule == STANDARD else standard.steps if standard else None
        found[schedule, rate] = AtRate(
            schedule=schedule,
            rate=rate,
            threshold=threshold,
            seeds=[curve.seed for curve in chosen],
            steps_by_seed=steps,
            steps=median,
            seconds=float(np.median(seconds)),
            seconds_by_seed=seconds,
            final=float(np.median([curve.accuracy[-1] for curve in chosen])),
            best=float(np.median([curve.accuracy.max() for curve in chosen])),
            rolled_back=sum(curve.rolled_back for curve in chosen),
            speedup_same_rate=_ratio(base, median),
        )
    return list(found.values())


def _best(
    curves: Sequence[Curve], rows: Sequence[AtRate], schedules: Sequence[str], threshold: float
) -> list[AtBestRate]:
    """Each schedule at the learning rate at which it is soonest there; of rates that never are, the best at the end."""
    soonest = {}
    for schedule in schedules:
        mine = [row for row in rows if (row.schedule, row.threshold) == (schedule, threshold)]
        soonest[schedule] = min(mine, key=lambda row: (row.steps if row.steps is not None else INFINITE, -row.best))
    standard = soonest[STANDARD]
    return [
        AtBestRate(
            schedule=row.schedule,
            threshold=row.threshold,
            rate=row.rate,
            steps=row.steps,
            seconds=row.seconds,
            steps_by_seed=row.steps_by_seed,
            speedup_steps=_ratio(standard.steps, row.steps),
            speedup_seconds=_ratio(standard.seconds, row.seconds),
            speedup_by_seed=_by_seed(standard, row),
        )
        for row in soonest.values()
    ]


def _by_seed(standard: AtRate, row: AtRate) -> dict[str, Figure]:
    """The ratio of steps of each seed that both were run with."""
    theirs, mine = (dict(zip(one.seeds, one.steps_by_seed, strict=True)) for one in (standard, row))
    return {str(seed): _ratio(theirs[seed], mine[seed]) for seed in sorted(theirs.keys() & mine.keys())}


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _ratio(one: float | None, other: float | None) -> float | None:
    """one / other; 0 where only `other` was never reached, None where it says nothing."""
    if one is None:
        return None
    return 0.0 if other is None else one / other if other else None


def _findings(rows: Sequence[AtRate], best: Sequence[AtBestRate]) -> list[str]:
    found = []
    for threshold in THRESHOLDS:
        standard, *others = (one for one in best if one.threshold == threshold)
        if standard.steps is None:
            found.append(
                f"Accuracy {threshold:g}: standard RL does not reach it in the steps given, at any learning rate."
            )
            continue
        same = [row for row in rows if row.threshold == threshold and row.schedule != STANDARD]
        told = [
            f"Accuracy {threshold:g}: standard RL is there after {standard.steps:.0f} steps at its best learning rate, "
            f"{standard.rate:g}",
            *_fastest(others),
            *_fastest_at_the_same_rate(same),
        ]
        found.append("; ".join(told) + ".")
    found += [
        f"{row.schedule} at {row.rate:g} ends at {row.final:.2f}, below its best of {row.best:.2f}."
        for row in rows
        if row.threshold == THRESHOLDS[0] and row.best - row.final > 0.1
    ]
    return found


def _fastest(others: Sequence[AtBestRate]) -> list[str]:
    """Of the schedules that get there, each at its best learning rate; nothing where none does."""
    able = [(one.speedup_steps, one) for one in others if one.speedup_steps]
    if not able:
        return []
    speedup, top = max(able, key=lambda pair: pair[0])
    by_seed = [value for value in top.speedup_by_seed.values() if value is not None]
    holds = len(by_seed) >= 3 and min(by_seed) > 1
    return [
        f"the fastest re-grounding at its own, {top.schedule} at {top.rate:g}, after {top.steps or 0:.0f}: "
        f"{speedup:.2f}x in steps (by seed {', '.join(f'{value:.2f}' for value in by_seed)}), "
        f"{top.speedup_seconds or 0:.2f}x in seconds, {'faster' if holds else 'not faster'} for every seed"
    ]


def _fastest_at_the_same_rate(rows: Sequence[AtRate]) -> list[str]:
    able = [(row.speedup_same_rate, row) for row in rows if row.speedup_same_rate]
    if not able:
        return []
    speedup, top = max(able, key=lambda pair: pair[0])
    return [f"at the same learning rate at most {speedup:.2f}x ({top.schedule} at {top.rate:g})"]
