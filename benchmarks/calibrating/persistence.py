"""How long the drift keeps its direction, and the errors that blup expects: what is said of both."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from calibrating.forecasts import BETA1, observed, turning
from calibrating.row import Row
from driftline.forecast import calibration
from driftline.linearity.persistence import persistence

_PERSISTENCE = ((8, 60, 300), (16, 60, 300), (16, 200, 300), (16, 600, 10_000))
_AHEAD = (1, 3)  # checkpoints
_SLOWING = 0.1  # of the first rate, at the end


def rows(runs: int) -> Iterator[Row]:
    for T, length, directions in _PERSISTENCE:
        steps = np.arange(T) * 20
        cov, held_inside = turning(steps, length, 0.5), 0
        for seed in range(runs):
            found = persistence(observed(cov, steps, directions, seed).total, steps, BETA1)
            held_inside += found is not None and found.low <= length <= found.high
        what = f"persistence of {length} steps inside its interval: {T} checkpoints 20 apart, {directions} directions"
        yield Row(what, "", held_inside, runs, at_least=0.93)
    for name, rate in (("constant", 1.0), ("falling to a tenth", _SLOWING)):
        yield _errors(name, rate, max(runs // 5, 6))


def _errors(name: str, rate: float, runs: int) -> Row:
    """Ratios of true and expected squared errors inside the band that runs draw of them, and those of the checkpoints to come."""
    steps = np.arange(16 + max(_AHEAD)) * 20
    cov = turning(steps, 200, 0.5) * np.outer(*[rate ** (np.arange(steps.size - 1) / 14)] * 2)
    held: list[bool] = []
    misses = []
    for seed in range(runs):
        whole = observed(cov, steps, 300, seed)
        seen = whole.only(range(16))
        found = calibration.ratios(seen, *calibration.spread_rows(16))
        held += calibration.tested(found, seen.clock).tolist()
        to_come = calibration.ratios(whole, [15], {15: [15 + ahead for ahead in _AHEAD]})
        guesses = [calibration.predicted(found, 20.0 * ahead, seen.clock, seen.clock[-1]) for ahead in _AHEAD]
        misses.append([log - guess for log, guess in zip(to_come.log, guesses, strict=True) if guess is not None])
    near, far = np.exp(np.mean(misses, axis=0))
    what = f"blup's scaled errors, a band of 90 %: ratios inside, rate {name}"
    note = f"of {runs} runs; to come, one and three checkpoints ahead: true over scaled {near:.2f}, {far:.2f}; ratios of a run overlap, so the interval is too narrow"
    return Row(what, "0 to 3 %", sum(held), len(held), at_least=0.85, at_most=0.95, note=note)
