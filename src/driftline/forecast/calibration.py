"""How honest the errors that `blup` expects are, and what to multiply them by: the run's own forecasts tell.

The model behind them is too sure of itself where a run is not stationary: the true squared error is a part or a
multiple of the expected one, and that part hardly changes from one cutoff to the next, or steadily (where the rate
falls). So the ratio at a horizon is predicted from the ratios of forecasts at that horizon which the run has verified
already, the latest weighing most (as adaptive conformal inference does: Gibbs & Candes 2021), and from their trend. How well that predicts is tested the same way, cutoff by
cutoff: a band that should hold 90 % of the ratios to come is drawn from the misses so far. Errors are given only
where it held 85 to 95 % of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from driftline.forecast import gaussian
from driftline.forecast.observations import Observations
from driftline.forecast.record import UNSET, Calibration
from driftline.linearity.student import student

Array = np.ndarray

NOMINAL, HONEST = 0.9, (0.85, 0.95)  # what the band should hold, and what it must hold for errors to be given
FEWEST_SEEN = 3  # checkpoints, before the first forecast
_MOST = 30  # cutoffs, and targets of each: thinned evenly in longer runs
_FORGETTING = 0.7  # weight of a ratio against that of the next cutoff
_TREND = 3  # cutoffs that have one
_FEWEST = 3  # cutoffs with verified ratios, and misses, before a band is drawn
_FEWEST_TESTED = 10  # ratios that a band was drawn for: fewer say nothing of 90 %


@dataclass(frozen=True)
class Ratios:
    """Of blup's back-tests: cutoff and target (rows of checkpoints), and the logarithm of true over expected squared error, [F]."""

    cutoff: Array
    target: Array
    log: Array


def ratios(observed: Observations, cutoffs: list[int], targets: dict[int, list[int]]) -> Ratios:
    """From every cutoff where blup can be fitted, to each of its targets."""
    clock, gram, T = observed.clock, observed.total, observed.clock.size
    found = []
    for cutoff in cutoffs:
        fit = gaussian.fit(clock[: cutoff + 1], gram[: cutoff + 1, : cutoff + 1], observed.beta1)
        if fit is None:
            continue
        for target in targets[cutoff]:
            prediction = gaussian.predict(clock[: cutoff + 1], fit, float(clock[target]), observed.beta1)
            b = np.zeros(T)
            b[: cutoff + 1] = prediction.coefficients
            b[target] -= 1
            true = float(b @ gram @ b)
            if prediction.expected_error > 0 and true > 0:
                found.append((cutoff, target, math.log(true / prediction.expected_error)))
    rows = np.array(found).reshape(-1, 3)
    return Ratios(rows[:, 0].astype(int), rows[:, 1].astype(int), rows[:, 2])


def predicted(known: Ratios, horizon: float, clock: Array, now: float) -> float | None:
    """The logarithm of the ratio of a forecast made at `now`, from verified ones at the nearest horizon and their trend;
    None without one half an interval near."""
    if not known.log.size:
        return None
    away = np.abs(clock[known.target] - clock[known.cutoff] - horizon)
    if away.min() > np.median(np.diff(clock)) / 2:
        return None
    near = away == away.min()
    cutoff, log = known.cutoff[near], known.log[near]
    weight = _FORGETTING ** (known.cutoff.max() - cutoff)
    weight /= weight.sum()
    middle, level = float(weight @ clock[cutoff]), float(weight @ log)
    if np.unique(cutoff).size < _TREND:
        return level
    from_middle = clock[cutoff] - middle
    slope = float(weight @ (from_middle * log)) / float(weight @ from_middle**2)
    return level + slope * (now - middle)


def tested(found: Ratios, clock: Array) -> Array:
    """Whether each ratio that could be predicted lay in the band drawn at its cutoff, bool [n]."""
    misses: list[tuple[int, float]] = []  # of predictions: the target at which each is known, and the miss
    inside = []
    for cutoff in np.unique(found.cutoff):
        verified = found.target <= cutoff
        known = Ratios(found.cutoff[verified], found.target[verified], found.log[verified])
        seen = [miss for target, miss in misses if target <= cutoff]
        cutoffs = np.unique(known.cutoff).size
        if cutoffs < _FEWEST:
            continue
        for row in np.flatnonzero(found.cutoff == cutoff):
            target = int(found.target[row])
            guess = predicted(known, clock[target] - clock[cutoff], clock, clock[cutoff])
            if guess is None:
                continue
            widening = math.sqrt(1 + (target - cutoff) / 4)  # the further a target, the older what is verified
            miss = (found.log[row] - guess) / widening
            if len(seen) >= _FEWEST:
                spread = math.sqrt(np.mean(np.square(seen)))
                inside.append(abs(miss) <= student((1 + NOMINAL) / 2, cutoffs - 1) * spread)
            misses.append((target, miss))
    return np.array(inside, dtype=bool)


def standard_error(observed: Observations, target: float) -> float | None:
    """Root of the expected squared error of blup's forecast, scaled by what the run's own forecasts came to.

    None where those were not told well enough, or none of them looked as far ahead.
    """
    clock = observed.clock
    fit = gaussian.fit(clock, observed.total, observed.beta1)
    if fit is None:
        return None
    found = ratios(observed, *spread_rows(clock.size))
    scale = predicted(found, target - float(clock[-1]), clock, float(clock[-1]))
    if scale is None or not honest(tested(found, clock)):
        return None
    return math.sqrt(gaussian.predict(clock, fit, target, observed.beta1).expected_error * math.exp(scale))


def spread_rows(T: int) -> tuple[list[int], dict[int, list[int]]]:
    """Cutoffs, and targets of each, of T checkpoints: all, thinned evenly in longer runs."""
    cutoffs = spread(FEWEST_SEEN - 1, T - 1)
    return cutoffs, {cutoff: spread(cutoff + 1, T) for cutoff in cutoffs}


def spread(first: int, stop: int) -> list[int]:
    """The rows from `first` to before `stop`: all, or some 30 of them, spread evenly."""
    rows = np.arange(first, stop)
    return rows[np.unique(np.linspace(0, rows.size - 1, min(rows.size, _MOST)).round().astype(int))].tolist()


def honest(inside: Array) -> bool:
    """Whether the band held as much as it should, of enough ratios to say so."""
    return inside.size >= _FEWEST_TESTED and HONEST[0] <= inside.mean() <= HONEST[1]


def calibration(observed: Observations, dimension: float, seed: int = 0) -> Calibration:
    """How honest blup's errors are: over the back-tests, the mean ratio of true to expected squared error, the share of
    ratios inside the band that holds 95 % of them in so many dimensions, and how much the band of scaled ones held."""
    found = ratios(observed, *spread_rows(observed.clock.size))
    if not found.log.size:
        return Calibration(forecasts=0, mean_ratio=None, inside_95=None)
    d, ratio = max(dimension, 1.0), np.exp(found.log)
    low, high = np.quantile(np.random.default_rng(seed).chisquare(d, 100_000) / d, [0.025, 0.975])
    inside = tested(found, observed.clock)
    return Calibration(
        forecasts=ratio.size,
        mean_ratio=float(ratio.mean()),
        inside_95=float(np.mean((low <= ratio) & (ratio <= high))),
        scaled=int(inside.size),
        scaled_inside_90=float(inside.mean()) if inside.size else UNSET,
        honest=honest(inside),
    )
