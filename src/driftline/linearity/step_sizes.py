"""How far the parameters of a tensor move per interval, before rounding: what a matched null needs.

The mean squared increment of one saved trajectory says little of that parameter's own step size: with a
dozen checkpoints it scatters by chance, and rounding hides small steps or makes large ones of them. To
take each at its word would spread the null's step sizes too wide, and a filter that keeps what moved most
would then pick other walks than it does in a run. So step sizes of a tensor are taken as log-normal,
and its median and spread are chosen such that driftless walks with such steps, saved in the tensor's
dtype, have the mean root-mean-square increment and the mean squared increment that the sampled
trajectories have (low moments: the sample is small and step sizes have heavy tails).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from driftline.checkpoints.dtypes import FLOATS

Array = np.ndarray

_RATIOS = np.geomspace(1e-3, 1e3, 61)  # step size over the unit in the last place
_SPREADS = np.linspace(0, 2.4, 13)  # of the logarithm of step size
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(7)
_STARTS = 2048
_WALK_STEPS = 400_000  # steps simulated for each ratio


@dataclass(frozen=True)
class Moves:
    """How a seeded sample of one tensor's parameters moved, changed or not.

    Attributes:
        parameters: of the whole tensor.
        start: first values of some of the sample.
        unit, weight: units in the last place of the sample's first values, and their shares.
        root, square: means over the sample of root mean square and mean squared increment.
    """

    parameters: int
    dtype: str
    start: Array
    unit: Array
    weight: Array
    root: float
    square: float


def moves_of(sample: Array, parameters: int, dtype: str) -> Moves:
    """The record of sampled trajectories [k, T], in random order."""
    values = sample.astype(np.float64)
    mean_square = np.mean(np.diff(values, axis=1) ** 2, axis=1)
    unit, count = np.unique(last_place(values[:, 0], dtype), return_counts=True)
    start = sample[:_STARTS, 0].astype(np.float32)
    return Moves(parameters, dtype, start, unit, count / count.sum(), float(np.sqrt(mean_square).mean()), float(mean_square.mean()))


@dataclass(frozen=True)
class Rounded:
    """Of a walk after rounding, in units in the last place: means of its root mean square and mean squared increment."""

    root: Array  # at _RATIOS
    square: Array


def last_place(values: Array, dtype: str) -> Array:
    """The unit in the last place of each value in `dtype`."""
    exponent = np.floor(np.log2(np.maximum(np.abs(values), 1e-30)))
    return np.exp2(exponent - FLOATS[dtype].mantissa_bits)


def hidden_part(n: int, from_rounded: bool, rng: np.random.Generator) -> Array:
    """What rounding hid of n first values, in units in the last place: nothing where the run started from them."""
    return np.zeros(n) if from_rounded else rng.uniform(-0.5, 0.5, n)


def rounded_moments(root: Array, from_rounded: bool, rng: np.random.Generator) -> Rounded:
    """Moments by simulation for walks root @ z, [T, T-1], whose root mean square increment is 1."""
    n = max(_WALK_STEPS // len(root), 1000)
    walks = rng.standard_normal((n, root.shape[1])) @ root.T
    start = hidden_part(n, from_rounded, rng)[:, None]
    squares = [np.mean(np.diff(np.round(ratio * walks + start), axis=1) ** 2, axis=1) for ratio in _RATIOS]
    return Rounded(np.array([np.sqrt(s).mean() for s in squares]), np.array([s.mean() for s in squares]))


def fit(moves: Moves, rounded: Rounded) -> tuple[float, float]:
    """Logarithm of the median step size and its spread; minus infinity where nothing in the sample moved."""
    if moves.square == 0:
        return -np.inf, 0.0
    weights = moves.weight[:, None] * _WEIGHTS / _WEIGHTS.sum()

    def moment(table: Array, median: float, spread: float, power: int) -> float:
        log_ratio = median + spread * _NODES - np.log(moves.unit)[:, None]
        inside = np.interp(log_ratio, np.log(_RATIOS), table)
        beyond = np.maximum(log_ratio - np.log(_RATIOS[-1]), 0)  # above the table rounding no longer matters
        return float(np.sum(weights * inside * np.exp(power * beyond) * moves.unit[:, None] ** power))

    best, closest = (0.0, 0.0), np.inf
    for spread in _SPREADS:
        low, high = np.log(moves.root) - 25, np.log(moves.root) + 5
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if moment(rounded.root, middle, spread, 1) < moves.root else (low, middle)
        miss = abs(np.log(moment(rounded.square, high, spread, 2) / moves.square))
        if miss < closest:
            best, closest = (high, float(spread)), miss
    return best
