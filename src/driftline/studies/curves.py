"""Accuracy of lab runs as they went, with and without re-grounding, and when it gets somewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from driftline.checkpoints.jumps import read_jumps
from driftline.files.record import Record
from driftline.lab.settings import LabRun
from driftline.studies.measures import lab_run, lab_scores

STANDARD = "standard"
INFINITE = float("inf")


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


class MedianCurve(Record):
    """Of a schedule at a learning rate: median and range over seeds of the accuracy at each step."""

    schedule: str
    rate: float
    steps: list[float]
    accuracy: list[float]
    low: list[float]
    high: list[float]


class BestCurve(Record):
    """Of a schedule: the best learning rate's median accuracy at each step, and which rate that is."""

    schedule: str
    steps: list[float]
    accuracy: list[float]
    rates: list[float]


def read_curve(folder: Path) -> Curve:
    """Raises `InputError` where `folder` is no finished lab run."""
    settings, scored = lab_run(folder).settings, lab_scores(folder)
    rolled_back = sum(jump.accepted is False for jump in read_jumps(folder))
    steps, accuracy, seconds = (
        np.array([row[key] for row in scored], float) for key in ("step", "sampled", "train_seconds")
    )
    pace = np.median(np.diff(seconds) / np.diff(steps)) if steps.size > 1 else 0.0
    schedule = schedule_name(settings)
    return Curve(schedule, settings.learning_rate, settings.seed, steps, accuracy, pace * steps, rolled_back)


def schedule_name(settings: LabRun) -> str:
    if settings.m is None:
        return STANDARD
    jump = settings.jump if settings.jump != "two-point" else ""
    chosen = {"always": "", "reward": "guarded", "validation": "validated"}[settings.accept]
    spacing = "doubling" if settings.spacing == "doubling" else ""
    return f"{settings.m}+{settings.n} {', '.join(filter(None, (jump, spacing, chosen)))}".strip()


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


def medians(curves: Sequence[Curve], pairs: Sequence[tuple[str, float]]) -> list[MedianCurve]:
    """A curve for each schedule and learning rate, at the steps that all their seeds were scored at."""
    drawn = []
    for schedule, rate in pairs:
        mine = [curve for curve in curves if (curve.schedule, curve.rate) == (schedule, rate)]
        steps = sorted(set.intersection(*({*map(float, curve.steps)} for curve in mine)))
        values = np.array([[curve.accuracy[list(curve.steps).index(step)] for step in steps] for curve in mine])
        drawn.append(
            MedianCurve(
                schedule=schedule,
                rate=rate,
                steps=steps,
                accuracy=np.median(values, 0).tolist(),
                low=values.min(0).tolist(),
                high=values.max(0).tolist(),
            )
        )
    return drawn


def envelopes(drawn: Sequence[MedianCurve]) -> list[BestCurve]:
    """The best curve of each schedule over its learning rates."""
    found = []
    for schedule in dict.fromkeys(curve.schedule for curve in drawn):
        mine = [curve for curve in drawn if curve.schedule == schedule]
        steps = sorted(set.intersection(*({*curve.steps} for curve in mine)))
        best = [max((curve.accuracy[curve.steps.index(step)], curve.rate) for curve in mine) for step in steps]
        accuracy, rates = zip(*best, strict=True)
        found.append(BestCurve(schedule=schedule, steps=steps, accuracy=list(accuracy), rates=list(rates)))
    return found
