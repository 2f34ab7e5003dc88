"""How long the drift keeps its direction, and the errors that blup expects: what is said of both."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from calibrating.forecasts import BETA1, observed, turning
from calibrating.row import Row
from calibrating.side import each
from driftline.forecast import calibration
from driftline.linearity.persistence import persistence

_PERSISTENCE = ((8, 60, 300), (16, 60, 300), (16, 200, 300), (16, 600, 10_000))
_AHEAD = (1, 3)  # checkpoints
_SLOWING = 0.1  # of the first rate, at the end


def rows(runs: int) -> Iterator[Row]:
    for T, length, directions in _PERSISTENCE:
        steps = np.arange(T) * 20
        held_inside = sum(each(partial(_inside, turning(steps, length, 0.5), steps, directions, length), runs))
        what = f"persistence of {length} steps inside its interval: {T} checkpoints 20 apart, {directions} directions"
        yield Row(what, "", held_inside, runs, at_least=0.93)
    for name, rate in (("constant", 1.0), ("falling to a tenth", _SLOWING)):
        yield _errors(name, rate, max(runs // 5, 6))


def _inside(cov: np.ndarray, steps: np.ndarray, directions: int, length: float, seed: int) -> bool:
    found = persistence(observed(cov, steps, directions, seed).total, steps, BETA1)
    return found is not None and found.low <= length <= found.high


def _errors(name: str, rate: float, runs: int) -> Row:
    """Ratios of true and expected squared errors inside the band that runs draw of them, and those of the checkpoints to come."""
    steps = np.arange(16 + max(_AHEAD)) * 20
    cov = turning(steps, 200, 0.5) * np.outer(*[rate ** (np.arange(steps.size - 1) / 14)] * 2)
    tested, misses = zip(*each(partial(_tested, cov, steps), runs), strict=True)
    held = [inside for one in tested for inside in one]
    near, far = np.exp(np.mean(misses, axis=0))
    what = f"blup's scaled errors, a band of 90 %: ratios inside, rate {name}"
    note = f"of {runs} runs; to come, one and three checkpoints ahead: true over scaled {near:.2f}, {far:.2f}; ratios of a run overlap, so the interval is too narrow"
    return Row(what, "0 to 3 %", sum(held), len(held), at_least=0.85, at_most=0.95, note=note)


def _tested(cov: np.ndarray, steps: np.ndarray, seed: int) -> tuple[list[bool], list[float]]:
    """Whether each ratio of one run is inside, and by how much, as a logarithm, those to come are missed."""
    whole = observed(cov, steps, 300, seed)
    seen = whole.only(range(16))
    found = calibration.ratios(seen, *calibration.spread_rows(16))
    to_come = calibration.ratios(whole, [15], {15: [15 + ahead for ahead in _AHEAD]})
    guesses = [calibration.predicted(found, 20.0 * ahead, seen.clock, seen.clock[-1]) for ahead in _AHEAD]
    missed = [log - guess for log, guess in zip(to_come.log, guesses, strict=True) if guess is not None]
    return calibration.tested(found, seen.clock).tolist(), missed
