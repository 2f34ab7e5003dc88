"""What `driftline watch` says of runs while they are written."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from calibrating import walks
from calibrating.drift import BETA1
from calibrating.row import Row
from calibrating.side import each
from driftline.linearity.drift import LEVEL, drift_test
from driftline.linearity.looks import LOOKS, Look, looked
from driftline.linearity.statistics import gram_of_increments, rebased
from driftline.watching.collapse import ENOUGH, direction_lost, moving_further

CHECKPOINTS, CHANGE = 25, 14  # of a run in which something changes, and the interval at which it does
_EARLIEST = 8  # checkpoints of a warning


def linear_at_some_look(increments: np.ndarray, steps: np.ndarray, seed: int) -> bool:
    """Whether a run that is followed to its end is called linear at any checkpoint."""
    gram, clock = gram_of_increments(increments), steps.astype(float)
    counts = [count for count in LOOKS if count < steps.size]
    for count in (*counts, steps.size):
        rows = np.arange(count)
        part = rebased(gram, rows)
        test = drift_test(part, steps[rows], clock[rows], BETA1, seed=seed)
        told = looked(Look(ended=count == steps.size), test, part, steps[rows], clock[rows], BETA1)
        if told is not None and told.linear:
            return True
    return False


def _linear(cov: np.ndarray, steps: np.ndarray, directions: int, gap: int, seed: int) -> bool:
    return linear_at_some_look(walks.increments(cov, directions, np.random.default_rng([seed, gap])), steps, seed)


def _followed(runs: int) -> Iterator[Row]:
    for T, gap, directions in ((30, 5, 300), (30, 100, 300), (30, 100, 100_000)):
        steps = np.arange(T) * gap
        cov = walks.walk(steps, BETA1)
        hits = sum(each(partial(_linear, cov, steps, directions, gap), runs))
        what = f"driftless walks followed to {T} checkpoints {gap} apart, {directions} directions: linear at some look"
        yield Row(what, "19 to 55 %", hits, runs, at_most=LEVEL)


def _run(
    gaps: np.ndarray, noise: np.ndarray, drift: float, directions: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Increments' Gram and steps of a run with `drift` per step, in units of a step's noise, and so much noise in each interval."""
    steps = np.concatenate([[0], np.cumsum(gaps)])
    updates = walks.momentum(int(steps[-1]), BETA1) * np.repeat(noise, gaps)[:, None]
    cov = walks.covariance(updates, steps)
    step = np.sqrt(np.mean(np.diag(cov) / gaps))
    lengths = drift * step * gaps / np.sqrt(np.diag(cov).mean())
    return walks.increments(cov, directions, np.random.default_rng([seed, directions]), lengths), steps


def warned(increments: np.ndarray, steps: np.ndarray, rates: np.ndarray | None = None) -> set[str]:
    """What is said at any checkpoint of a run, with the mean learning rate of each interval; constant without."""
    said = set()
    for T in range(_EARLIEST, steps.size + 1):
        part, clock = increments[: T - 1, : T - 1], steps[:T].astype(float)
        if direction_lost(part, clock, BETA1) is not None:
            said.add("direction lost")
        if moving_further(part, clock, np.zeros(T - 1) if rates is None else rates[: T - 1]) is not None:
            said.add("length")
    return said


def _changed(gaps: np.ndarray, noise: np.ndarray, drift: float, seed: int) -> set[str]:
    return warned(*_run(gaps, noise, drift, 2000, seed))


def _changes(runs: int) -> Iterator[Row]:
    """A change of spacing or batch is no loss of direction; that increments are longer is true of a smaller batch."""
    K = CHECKPOINTS - 1
    late = np.arange(K) >= CHANGE
    same = np.ones(K)
    for what, gaps, noise, before in (
        ("checkpoints four times as far apart", np.where(late, 40, 10), same, ("100 %", "0 %")),
        ("checkpoints four times as close", np.where(late, 10, 40), same, ("0 %", "0 %")),
        ("a batch an eighth as large", np.full(K, 20), np.where(late, np.sqrt(8), 1.0), ("100 %", "100 %")),
    ):
        for drift, measured in zip((0.0, 0.1), before, strict=True):  # no drift; as much as noise in 100 steps
            said = each(partial(_changed, gaps, noise, drift), runs)
            whose = "straight runs" if drift else "driftless walks"
            hits = sum("direction lost" in one for one in said)
            longer = sum("length" in one for one in said) / runs
            note = f"increments said to be longer: {longer:.0%}"
            yield Row(f"{whose}, {what} from the middle on: direction lost", measured, hits, runs, LEVEL, note=note)


def _stood_still(cov: np.ndarray, steps: np.ndarray, ways: np.ndarray, seed: int) -> set[str]:
    return warned(walks.increments(cov, 2000, np.random.default_rng(seed), ways), steps)


def _plateau(runs: int) -> Iterator[Row]:
    cov = walks.walk(np.arange(CHECKPOINTS) * 20, BETA1)
    ways = np.where(np.arange(CHECKPOINTS - 1) < CHANGE, 1.0, 0.0)
    steps = np.arange(CHECKPOINTS) * 20
    said = each(partial(_stood_still, cov, steps, ways), runs)
    hits = sum("direction lost" in one for one in said)
    what = "runs that stand still from the middle on: direction lost (before: a collapse)"
    yield Row(what, "99.7 %", hits, runs, at_least=0.8)


def _not_found(cov: np.ndarray, steps: np.ndarray, drift: float, seed: int) -> bool:
    increments = walks.increments(cov, 300, np.random.default_rng([seed, 3]), drift)
    test = drift_test(gram_of_increments(increments), steps, steps.astype(float), BETA1, seed=seed)
    return test is not None and not test.found


def _no_drift(runs: int) -> Iterator[Row]:
    steps = np.arange(ENOUGH) * 100
    cov = walks.walk(steps, BETA1)
    for drift, most, least in ((0.3, LEVEL, None), (0.0, None, 0.9)):
        hits = sum(each(partial(_not_found, cov, steps, drift), runs))
        what = f"drift of {drift} of the noise per interval: warned of no drift at {ENOUGH} checkpoints"
        yield Row(what, "", hits, runs, most, least)


def rows(runs: int) -> Iterator[Row]:
    yield from _followed(runs)
    yield from _changes(runs)
    yield from _plateau(runs)
    yield from _no_drift(runs)
