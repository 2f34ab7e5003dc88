"""Is re-grounding faster than RL, and is it more than a larger learning rate? (paper, Fig. 6 and Table 2)

Standard RL and several schedules of re-grounding, each at the same learning rates and seeds. For each run: the RL
steps, and the seconds of training (at the run's median pace, so that what else the machine does counts little), until accuracy on held-out problems (sampled at temperature 1) has reached a
threshold and holds it at the next score too. Two ways of counting a speed-up:

    same rate    standard RL's steps over the schedule's, both at that learning rate (as the paper counts)
    best rates   the same, each at the learning rate that takes it there soonest (median over seeds)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from driftline.errors import InputError
from driftline.lab.settings import LabRun
from driftline.studies.study import Outcome

STANDARD = "standard"
SCHEDULES: Mapping[str, dict[str, Any]] = {
    STANDARD: {},
    "5+5": {"m": 5, "n": 5},
    "10+10": {"m": 10, "n": 10},
    "20+20": {"m": 20, "n": 20},
    "20+20 guarded": {"m": 20, "n": 20, "accept": "reward"},
    "10+20 damped, guarded": {"m": 10, "n": 20, "accept": "reward", "jump": "damped"},
}
RATES = (1e-5, 3e-5, 1e-4)
SEEDS = (0, 1, 2)
THRESHOLDS = (0.6, 0.75, 0.9, 0.95)
_FULL: dict[str, Any] = {"steps": 80, "score_every": 4, "save_every": 80, "prompts_per_step": 8}
_QUICK: dict[str, Any] = {"steps": 8, "score_every": 4, "save_every": 8, "prompts_per_step": 2, "held_out_problems": 32}
_SETTINGS = ("m", "n", "accept", "jump")
INFINITE = float("inf")


def plan(quick: bool) -> dict[str, LabRun]:
    """Seeds outermost, so that what drifts on the machine meets all schedules alike."""
    if quick:
        schedules: Mapping[str, dict[str, Any]] = {STANDARD: {}, "4+4": {"m": 4, "n": 4}}
        rates: Sequence[float] = RATES[:1]
        seeds: Sequence[int] = SEEDS[:1]
        shape = _QUICK
    else:
        schedules, rates, seeds, shape = SCHEDULES, RATES, SEEDS, _FULL
    return {
        f"{schedule}, {rate:g}, seed {seed}": LabRun(learning_rate=rate, seed=seed, **shape, **options)
        for seed in seeds
        for rate in rates
        for schedule, options in schedules.items()
    }


@dataclass(frozen=True)
class Curve:
    """Accuracy of one run as it went."""

    schedule: str
    rate: float
    seed: int
    steps: np.ndarray
    accuracy: np.ndarray
    seconds: np.ndarray
    rolled_back: int


def measure(runs: Mapping[str, Path], quick: bool) -> Outcome:
    """Steps and seconds to every threshold, by schedule and learning rate, and the speed-ups they make."""
    curves = [read_curve(folder) for folder in runs.values()]
    schedules = list(dict.fromkeys(curve.schedule for curve in curves))
    schedules.sort(key=lambda schedule: schedule != STANDARD)
    if STANDARD not in schedules:
        raise InputError("no run of standard RL (without --m and --n) is among them: add one to --runs to compare with")
    pairs = sorted({(schedules.index(curve.schedule), curve.rate) for curve in curves})
    rows = [_row(curves, schedules[place], rate, threshold) for threshold in THRESHOLDS for place, rate in pairs]
    for row in rows:
        same = [
            r for r in rows if (r["schedule"], r["rate"], r["threshold"]) == (STANDARD, row["rate"], row["threshold"])
        ]
        row["speedup_same_rate"] = _ratio(same[0]["steps"], row["steps"]) if same else None
    best = [_best(rows, schedule, threshold) for threshold in THRESHOLDS for schedule in schedules]
    for found in best:
        baseline = next(b for b in best if (b["schedule"], b["threshold"]) == (STANDARD, found["threshold"]))
        found["speedup_steps"] = _ratio(baseline["steps"], found["steps"])
        found["speedup_seconds"] = _ratio(baseline["seconds"], found["seconds"])
        found["speedup_by_seed"] = _by_seed(curves, baseline, found)
    drawn = _drawn(curves, schedules)
    return Outcome(rows, _findings(rows, best), {"best": best, "curves": drawn, "best_curves": _envelopes(drawn)})


def read_curve(folder: Path) -> Curve:
    """Raises `InputError` where `folder` is no finished lab run."""
    try:
        record = json.loads((folder / "run.json").read_text())
        scored = [json.loads(line) for line in (folder / "accuracy.jsonl").read_text().splitlines()]
        jumps = json.loads((folder / "jumps.json").read_text()) if (folder / "jumps.json").is_file() else []
        settings = record["settings"]
        series = [np.array([row[key] for row in scored], float) for key in ("step", "sampled", "train_seconds")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} is no finished run of driftline train ({error}): leave it out of --runs") from error
    schedule = STANDARD if settings["m"] is None else schedule_name({key: settings[key] for key in _SETTINGS})
    rolled_back = sum(jump["accepted"] is False for jump in jumps)
    steps, accuracy, seconds = series
    pace = np.median(np.diff(seconds) / np.diff(steps)) if steps.size > 1 else 0.0
    return Curve(schedule, settings["learning_rate"], settings["seed"], steps, accuracy, pace * steps, rolled_back)


def schedule_name(options: dict[str, Any]) -> str:
    words = [f"{options['m']}+{options['n']}"]
    how = [*([options["jump"]] if options["jump"] != "two-point" else []), *(["guarded"] if options["accept"] == "reward" else [])]  # fmt: skip
    return " ".join([*words, ", ".join(how)]).strip()


def reached(curve: Curve, threshold: float) -> tuple[float, float]:
    """Step and training seconds where accuracy comes to the threshold and holds it at the next score; infinite if never.

    On the straight line between the last score below it and the first one above.
    """
    holds = curve.accuracy >= threshold
    holds[:-1] &= holds[1:]
    if not holds.any():
        return INFINITE, INFINITE
    first = int(holds.argmax())
    if first == 0:
        return float(curve.steps[0]), float(curve.seconds[0])
    low, high = curve.accuracy[first - 1], curve.accuracy[first]
    part = (threshold - low) / (high - low) if low < threshold else 1.0
    ends = slice(first - 1, first + 1)
    steps, seconds = (float(v[0] + part * (v[1] - v[0])) for v in (curve.steps[ends], curve.seconds[ends]))
    return steps, seconds


def _row(curves: list[Curve], schedule: str, rate: float, threshold: float) -> dict[str, Any]:
    chosen = [curve for curve in curves if (curve.schedule, curve.rate) == (schedule, rate)]
    steps, seconds = (list(found) for found in zip(*(reached(curve, threshold) for curve in chosen), strict=True))
    return {
        "schedule": schedule,
        "rate": rate,
        "threshold": threshold,
        "seeds": [curve.seed for curve in chosen],
        "steps_by_seed": [_finite(value) for value in steps],
        "steps": _finite(float(np.median(steps))),
        "seconds": _finite(float(np.median(seconds))),
        "seconds_by_seed": [_finite(value) for value in seconds],
        "final": float(np.median([curve.accuracy[-1] for curve in chosen])),
        "best": float(np.median([curve.accuracy.max() for curve in chosen])),
        "rolled_back": sum(curve.rolled_back for curve in chosen),
    }


def _best(rows: list[dict[str, Any]], schedule: str, threshold: float) -> dict[str, Any]:
    """The row of the learning rate at which a schedule is soonest there; of rates that never are, the best at the end."""
    mine = [row for row in rows if (row["schedule"], row["threshold"]) == (schedule, threshold)]
    soonest = min(mine, key=lambda row: (row["steps"] if row["steps"] is not None else INFINITE, -row["best"]))
    return {key: soonest[key] for key in ("schedule", "threshold", "rate", "steps", "seconds", "steps_by_seed")}


def _by_seed(curves: list[Curve], baseline: dict[str, Any], found: dict[str, Any]) -> dict[str, float | None]:
    """The ratio of steps of each seed that both were run with."""

    def steps(row: dict[str, Any]) -> dict[int, float]:
        return {
            curve.seed: reached(curve, row["threshold"])[0]
            for curve in curves
            if (curve.schedule, curve.rate) == (row["schedule"], row["rate"])
        }

    theirs, mine = steps(baseline), steps(found)
    return {
        str(seed): _ratio(_finite(theirs[seed]), _finite(mine[seed])) for seed in sorted(theirs.keys() & mine.keys())
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _ratio(one: float | None, other: float | None) -> float | None:
    """one / other; 0 where only `other` was never reached, None where it says nothing."""
    if one is None:
        return None
    return 0.0 if other is None else one / other if other else None


def _findings(rows: list[dict[str, Any]], best: list[dict[str, Any]]) -> list[str]:
    found = []
    for threshold in THRESHOLDS:
        mine = [b for b in best if b["threshold"] == threshold]
        baseline = next(b for b in mine if b["schedule"] == STANDARD)
        if baseline["steps"] is None:
            found.append(
                f"Accuracy {threshold:g}: standard RL does not reach it in the steps given, at any learning rate."
            )
            continue
        others = [b for b in mine if b["schedule"] != STANDARD and b["speedup_steps"]]
        same = [r for r in rows if r["threshold"] == threshold and r["schedule"] != STANDARD and r["speedup_same_rate"]]
        sentence = (
            f"Accuracy {threshold:g}: standard RL is there after {baseline['steps']:.0f} steps at its best learning rate, "
            f"{baseline['rate']:g}"
        )
        if others:
            top = max(others, key=lambda b: b["speedup_steps"])
            by_seed = [value for value in top["speedup_by_seed"].values() if value is not None]
            holds = len(by_seed) >= 3 and min(by_seed) > 1
            sentence += (
                f"; the fastest re-grounding at its own, {top['schedule']} at {top['rate']:g}, after {top['steps']:.0f}: "
                f"{top['speedup_steps']:.2f}x in steps (by seed {', '.join(f'{value:.2f}' for value in by_seed)}), "
                f"{top['speedup_seconds'] or 0:.2f}x in seconds, "
                + ("faster for every seed" if holds else "not faster for every seed")
            )
        if same:
            top = max(same, key=lambda r: r["speedup_same_rate"])
            sentence += f"; at the same learning rate at most {top['speedup_same_rate']:.2f}x ({top['schedule']} at {top['rate']:g})"
        found.append(sentence + ".")
    worst = [r for r in rows if r["threshold"] == THRESHOLDS[0] and r["best"] - r["final"] > 0.1]
    found += [
        f"{r['schedule']} at {r['rate']:g} ends at {r['final']:.2f}, below its best of {r['best']:.2f}." for r in worst
    ]
    return found


def _envelopes(drawn: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each schedule the best learning rate's median accuracy at each step, and which rate that is."""
    found = []
    for schedule in dict.fromkeys(curve["schedule"] for curve in drawn):
        mine = [curve for curve in drawn if curve["schedule"] == schedule]
        steps = sorted(set.intersection(*({*curve["steps"]} for curve in mine)))
        best = [max((curve["accuracy"][curve["steps"].index(step)], curve["rate"]) for curve in mine) for step in steps]
        accuracy, rates = zip(*best, strict=True)
        found.append({"schedule": schedule, "steps": steps, "accuracy": list(accuracy), "rates": list(rates)})
    return found


def _drawn(curves: list[Curve], schedules: list[str]) -> list[dict[str, Any]]:
    """Median and range over seeds of the accuracy at each step."""
    drawn = []
    for place, rate in sorted({(schedules.index(curve.schedule), curve.rate) for curve in curves}):
        schedule = schedules[place]
        mine = [curve for curve in curves if (curve.schedule, curve.rate) == (schedule, rate)]
        steps = sorted(set.intersection(*({*map(float, curve.steps)} for curve in mine)))
        values = np.array([[curve.accuracy[list(curve.steps).index(step)] for step in steps] for curve in mine])
        drawn.append(
            {
                "schedule": schedule,
                "rate": rate,
                "steps": steps,
                "accuracy": np.median(values, 0).tolist(),
                "low": values.min(0).tolist(),
                "high": values.max(0).tolist(),
            }
        )
    return drawn
