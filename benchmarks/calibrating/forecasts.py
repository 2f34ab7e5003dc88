"""What is said of forecasts: the lower end of their skill, blup's errors, and how long the drift keeps its direction."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce

import numpy as np

from calibrating import walks
from calibrating.row import Row
from driftline.forecast import calibration
from driftline.forecast.backtest import Scores, pool, score
from driftline.forecast.choose import choose
from driftline.forecast.extrapolators import methods
from driftline.forecast.observations import Observations
from driftline.linearity.persistence import drift_covariance, persistence
from driftline.linearity.statistics import gram_of_increments

BETA1 = 0.9
_TWO_POINT = methods(beta1=BETA1)["two-point"]
_SKILL = ((8, 100, 0.7, 300), (12, 100, 0.7, 300), (20, 100, 0.5, 300), (20, 300, 0.5, 30), (30, 100, 0.5, 300))
_PERSISTENCE = ((8, 60, 300), (16, 60, 300), (16, 200, 300), (16, 600, 10_000))
_AHEAD = (1, 3)  # checkpoints
_SLOWING = 0.1  # of the first rate, at the end


def turning(steps: np.ndarray, length: float, share: float) -> np.ndarray:
    """Covariance of increments: a drift that turns over `length` steps, with that share of the first interval's variance."""
    drift, walk = drift_covariance(steps, length), walks.walk(steps, BETA1)
    return share * drift / drift[0, 0] + (1 - share) * walk / walk[0, 0]


def observed(cov: np.ndarray, steps: np.ndarray, directions: int, seed: int) -> Observations:
    return _seen(walks.increments(cov, directions, np.random.default_rng([seed, len(steps), directions])), steps)


def above(T: int, length: float, share: float, directions: int, runs: int) -> dict[int, int]:
    """By intervals ahead: in how many runs the lower end lies above the true skill, that of the expected squared errors."""
    steps = np.arange(T) * 10
    cov = turning(steps, length, share)
    sure = Observations(steps, steps.astype(float), BETA1, {"weights": gram_of_increments(cov)})
    expected = reduce(Scores.__add__, score(sure, _TWO_POINT).values())
    found: dict[int, int] = {}
    for seed in range(runs):
        run = observed(cov, steps, directions, seed)
        for one in pool(reduce(Scores.__add__, score(run, _TWO_POINT).values()), run, _TWO_POINT):
            ahead = round(one.horizon / 10)
            rows = expected.target - expected.cutoff == ahead
            if np.isfinite(one.low):
                true = 1 - expected.error[rows].sum() / expected.hold_error[rows].sum()
                found[ahead] = found.get(ahead, 0) + int(one.low > true)
    return found


def _chosen(runs: int) -> Iterator[Row]:
    """What `auto` says of lines, of runs that stand still at their end, and of walks."""
    for T, before in ((5, "always"), (6, ""), (12, "")):
        steps = np.arange(T) * 50
        cov = walks.walk(steps, BETA1)
        said = [choose(_seen(walks.increments(cov, 2000, _rng(seed, T), 20.0), steps)).sentence for seed in range(runs)]
        worse = sum("worse" in one or "not reliably" in one for one in said)
        note = f"two-point is taken: {sum(one.startswith('two-point') for one in said) / runs:.0%}"
        what = f"almost perfect lines, {T} checkpoints: said that two-point did worse than holding"
        yield Row(what, before, worse, runs, at_most=0.05, note=note)
    steps = np.arange(21) * 50
    cov = walks.walk(steps[:-1], BETA1)
    far = 0
    for seed in range(runs):
        still = np.pad(walks.increments(cov, 2000, _rng(seed, 21)), (0, 1))
        far += choose(_seen(still, steps)).horizon > 0
    what = "driftless walks of 20 checkpoints and one equal to the last: two-point may go somewhere"
    yield Row(what, "always, without limit", far, runs, at_most=0.05)
    for T, directions in ((8, 300), (20, 300), (20, 100_000)):
        steps = np.arange(T) * 20
        cov = walks.walk(steps, BETA1)
        far = sum(
            choose(_seen(walks.increments(cov, directions, _rng(seed, T)), steps)).horizon > 0 for seed in range(runs)
        )
        what = f"driftless walks, {T} checkpoints 20 apart, {directions} directions: a forecast is recommended"
        yield Row(what, "", far, runs, at_most=0.05)


def _seen(increments: np.ndarray, steps: np.ndarray) -> Observations:
    return Observations(steps, steps.astype(float), BETA1, {"weights": gram_of_increments(increments)})


def _rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng([*seed, 4])


def rows(runs: int) -> Iterator[Row]:
    yield from _chosen(runs)
    for T, length, share, directions in _SKILL:
        hits = above(T, length, share, directions, runs)
        worst = max(hits, key=lambda ahead: hits[ahead])
        what = f"lower end of skill above the true one: {T} checkpoints 10 apart, drift over {length} steps, {directions} directions"
        yield Row(
            what, "25 to 39 %", hits[worst], runs, at_most=0.05, note=f"the worst horizon: {worst} of {max(hits)}"
        )
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
