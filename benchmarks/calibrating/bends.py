"""Where a run is cut into straight pieces: straight ones at a constant and at a falling rate, and one that turns."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from calibrating import walks
from calibrating.drift import BETA1
from calibrating.row import Row
from calibrating.side import each
from driftline.linearity import null, regime
from driftline.linearity.drift import LEVEL
from driftline.linearity.statistics import gram_of_increments, increments_lengths

_T, _GAP = 21, 20


def cut(increments: np.ndarray, clock: np.ndarray) -> bool:
    """Whether a run is cut into pieces, or a walk's null of the run's lengths is passed."""
    gram = gram_of_increments(increments)
    chance = null.matched_gram(np.arange(_T) * _GAP, BETA1, increments_lengths(gram))
    return len(regime.segments(gram, clock, chance)) > 1


def rows(runs: int) -> Iterator[Row]:
    steps = np.arange(_T) * _GAP
    cov = walks.walk(steps, BETA1)
    constant, cosine = np.ones(_T - 1), (1 + np.cos(np.pi * (np.arange(_T - 1) + 0.5) / (_T - 1))) / 2
    for directions, drift in ((300, 0.5), (300, 2.0), (100_000, 0.2), (100_000, 2.0)):
        for name, rate, clock_of, before in (
            ("a constant rate", constant, "steps", ""),
            ("a cosine rate", cosine, "the summed rate", "100 %"),
            ("a cosine rate", cosine, "steps", "100 %"),
        ):
            summed = np.concatenate([[0.0], rate.cumsum()])
            clock = summed if clock_of == "the summed rate" else steps.astype(float)
            hits = sum(each(partial(_cut_straight, cov, directions, drift, rate, clock), runs))
            what = (
                f"straight runs, drift of {drift} of the noise, {directions} directions, {name}, clock {clock_of}: cut"
            )
            slows = name != "a constant rate" and clock_of == "steps"  # they do change speed, and that is what is said
            note = 'true, as it is said: "changing speed or direction"' if slows else ""
            yield Row(what, before if drift > 1 else "", hits, runs, at_most=None if slows else LEVEL, note=note)
    for drift in (0.5, 2.0):
        hits = sum(each(partial(_cut_turning, cov, drift, steps.astype(float)), runs))
        what = f"runs that turn by a right angle half-way, drift of {drift} of the noise, 300 directions: cut"
        yield Row(what, "", hits, runs, at_least=0.9 if drift > 1 else None)


def _cut_straight(
    cov: np.ndarray, directions: int, drift: float, rate: np.ndarray, clock: np.ndarray, seed: int
) -> bool:
    straight = walks.increments(cov, directions, np.random.default_rng([seed, directions]), drift)
    return cut(np.outer(rate, rate) * straight, clock)


def _cut_turning(cov: np.ndarray, drift: float, clock: np.ndarray, seed: int) -> bool:
    return cut(_turning(cov, 300, drift, seed), clock)


def _turning(cov: np.ndarray, directions: int, drift: float, seed: int) -> np.ndarray:
    """Noise, and drift along one direction in the first half and along another in the second, by their vectors."""
    rng = np.random.default_rng([seed, directions, 1])
    m = len(cov)
    noise = np.linalg.cholesky(cov) @ rng.standard_normal((m, directions))
    length = drift * np.sqrt(directions * np.diag(cov).mean())
    half = np.arange(m) < m // 2
    noise[:, 0] += length * half
    noise[:, 1] += length * ~half
    return noise @ noise.T
