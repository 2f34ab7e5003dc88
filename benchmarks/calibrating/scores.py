"""What is said of scores: intervals of avg@k, and of differences between two models."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from calibrating.row import Row
from calibrating.side import each
from driftline.evaluation.metrics import bootstrap_interval, paired_difference

_MEANS, _PROBLEMS, _SAMPLES = (0.01, 0.05, 0.2, 0.5), (16, 30, 200), (1, 4, 64)
_BEFORE: dict[tuple[float, tuple[int, ...]], str] = {(0.05, (16,)): "82 %", (0.05, (30,)): "88 %"}
_SMALL = 0.05  # the mean at which each number of problems has a row
_ALIKE = 0.2  # correlation of two samples of one problem


def difficulty(kind: str, mean: float, problems: int, rng: np.random.Generator) -> np.ndarray:
    """Chance of a right sample of each problem: by Beta's law, all alike, or of two kinds."""
    if kind == "beta":
        return rng.beta(mean * (1 / _ALIKE - 1), (1 - mean) * (1 / _ALIKE - 1), problems)
    return np.full(problems, mean) if kind == "alike" else 0.9 * (rng.random(problems) < mean / 0.9)


def rows(runs: int) -> Iterator[Row]:
    for kind in ("beta", "alike", "two kinds"):
        for mean in _MEANS:
            apart: list[tuple[int, ...]] = [(P,) for P in _PROBLEMS]
            for numbers in apart if mean == _SMALL else [_PROBLEMS]:
                yield _covered(kind, mean, numbers, runs)
    for problems, mean in ((16, 0.05), (30, 0.2), (100, 0.5)):
        found = each(partial(_equal, problems, mean), runs)
        refused, disagree = (sum(said) for said in zip(*found, strict=True))
        what = f"two equal models, {problems} problems of mean {mean}"
        yield Row(f"{what}: a difference is found", "", refused, runs, at_most=0.05)
        yield Row(f"{what}: test and interval disagree", "", disagree, runs, at_most=0.0)


def _equal(problems: int, mean: float, seed: int) -> tuple[bool, bool]:
    """Of two equal models: whether a difference is found, and whether test and interval disagree."""
    rng = np.random.default_rng([seed, problems])
    chance = difficulty("beta", mean, problems, rng)
    first, second = (rng.binomial(8, chance) / 8 for _ in range(2))
    found = paired_difference(first, second, seed=seed)
    inside = found.interval[0] <= 0 <= found.interval[1]
    return bool(found.p_value <= 0.05), bool(inside != (found.p_value > 0.05))


def _covered(kind: str, mean: float, problems: tuple[int, ...], runs: int) -> Row:
    """How often the truth is inside, over numbers of problems and of samples alike."""
    covered = {
        (P, samples): sum(low <= mean <= high for low, high in each(partial(interval, kind, mean, P, samples), runs))
        for P in problems
        for samples in _SAMPLES
    }
    worst = min(covered, key=lambda case: covered[case])
    note = f"the worst: {covered[worst] / runs:.0%}, {worst[0]} problems of {worst[1]} samples"
    before = _BEFORE.get((mean, problems), "") if kind == "beta" else ""
    of = f"{problems[0]} problems" if len(problems) == 1 else "16 to 200 problems"
    what = f"avg@k {mean} inside its interval, {of}, difficulty: {kind}"
    return Row(what, before, sum(covered.values()), runs * len(covered), 0.99, 0.93, note)


def interval(kind: str, mean: float, problems: int, samples: int, seed: int) -> tuple[float, float]:
    rng = np.random.default_rng([seed, problems, samples])
    return bootstrap_interval(rng.binomial(samples, difficulty(kind, mean, problems, rng)) / samples, seed=seed)
