"""How far the parameters of a tensor move per interval, before rounding: what a matched null needs.

The mean squared increment of one saved trajectory says little of that parameter's own step size: with a
dozen checkpoints it scatters by chance, and rounding hides small steps or makes large ones of them. To
take each at its word would spread the null's step sizes too wide, and a filter that keeps what moved most
would then pick other walks than it does in a run. So step sizes of a tensor are taken as log-normal,
but for a share of parameters that do not move at all (frozen ones, tokens that are never seen). Median, spread
and share are chosen such that driftless walks with such steps, saved in the tensor's dtype, have the mean
root-mean-square increment, the mean squared increment and the share of changed parameters that the sampled
trajectories have (low moments: the sample is small and step sizes have heavy tails).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from driftline.checkpoints.dtypes import FLOATS
from driftline.compiled import njit

Array = np.ndarray

_PER_OCTAVE = 8  # logarithms of ratios lie on a grid that units in the last place, powers of two, keep
_GRID = np.arange(-32 * _PER_OCTAVE, 32 * _PER_OCTAVE + 1)  # of log2(step size / unit) x _PER_OCTAVE
_MIDDLE = _GRID.size // 2
_FINEST = 16  # octaves below what the sample moved: finer units round nothing
_SIMULATED = np.arange(-10 * _PER_OCTAVE, 10 * _PER_OCTAVE + 1, 2)
_SPREADS = np.linspace(0, 2.4, 13)  # of the logarithm of step size
_ALL_MOVE = 0.02  # by which the share of changed parameters may miss that of walks which all move: the sample is small
_FEWEST_MOVE = 1e-4  # share
_HALVINGS = 12
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(7)
_STARTS = 2048
_OF_ZERO, _SMALLEST_NORMAL = 1e-30, 2.0**-126
_WALK_STEPS = 400_000  # steps simulated for each ratio
_MEDIANS = 32 * _PER_OCTAVE  # tried, from 24 octaves below what the sample moved to 8 above
_AT_ONCE = 1024  # walks

_compiled = njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz", "arcp"}, error_model="numpy")


@dataclass(frozen=True)
class Moves:
    """How a seeded sample of one tensor's parameters moved, changed or not.

    Attributes:
        parameters: of the whole tensor.
        start: first values of some of the sample.
        unit, weight: units in the last place of the sample's first values, and their shares.
        root, square: means over the sample of root mean square and mean squared increment.
        changed: share of the sample that took more than one value.
    """

    parameters: int
    dtype: str
    start: Array
    unit: Array
    weight: Array
    root: float
    square: float
    changed: float = 1.0


def moves_of(sample: Array, parameters: int, dtype: str) -> Moves:
    """The record of sampled trajectories [k, T], in random order."""
    values = sample.astype(np.float64)
    mean_square = np.mean(np.diff(values, axis=1) ** 2, axis=1)
    unit, count = np.unique(last_place(values[:, 0], dtype), return_counts=True)
    start = sample[:_STARTS, 0].astype(np.float32)
    return Moves(
        parameters,
        dtype,
        start,
        unit,
        count / count.sum(),
        float(np.sqrt(mean_square).mean()),
        float(mean_square.mean()),
        float((mean_square > 0).mean()),
    )


@dataclass(frozen=True)
class Rounded:
    """Of walks after rounding, in units in the last place: means of root mean square and mean squared increment, and
    the share that changes.

    [spreads, grid]: for log-normal step sizes by their spread and the logarithm of their median ratio to the unit.
    """

    root: Array
    square: Array
    changed: Array


@dataclass(frozen=True)
class Sizes:
    """How far the parameters of a tensor move per interval: `share` of them, by log-normal steps; the others not at all.

    Attributes:
        median: its logarithm, minus infinity where nothing in the sample moved; spread: of the logarithm.
    """

    median: float
    spread: float
    share: float = 1.0


def last_place(values: Array, dtype: str) -> Array:
    """The unit in the last place of each value in `dtype`."""
    size = np.where(values == 0, _OF_ZERO, np.maximum(np.abs(values), _SMALLEST_NORMAL))
    exponent = np.floor(np.log2(size))
    return np.exp2(exponent - FLOATS[dtype].mantissa_bits)


def hidden_part(n: int, from_rounded: bool, rng: np.random.Generator) -> Array:
    """What rounding hid of n first values, in units in the last place: nothing where the run started from them."""
    return np.zeros(n) if from_rounded else rng.uniform(-0.5, 0.5, n)


def rounded_moments(root: Array, from_rounded: bool, rng: np.random.Generator) -> Rounded:
    """Moments by simulation for walks root @ z, [T, T-1], whose root mean square increment is 1."""
    n = max(_WALK_STEPS // len(root), 1000)
    walks = np.ascontiguousarray(root @ rng.standard_normal((n, root.shape[1])).T)  # [T, n]: the long axis last is fast
    start = hidden_part(n, from_rounded, rng)
    found = np.array([_moments(walks, start, 2.0 ** (r / _PER_OCTAVE)) for r in _SIMULATED])
    return Rounded(*(_mixtures(np.ascontiguousarray(found[:, k]), power) for k, power in enumerate((1, 2, 0))))


@_compiled
def _moments(walks, start, ratio):
    """Of walks [T, n], so many units in the last place long, once rounded: root mean square, mean square, share changed."""
    T, n = walks.shape
    last, square = np.empty(_AT_ONCE), np.empty(_AT_ONCE)
    root = total = changed = 0.0
    for first in range(0, n, _AT_ONCE):
        m = min(_AT_ONCE, n - first)
        for i in range(m):
            last[i], square[i] = np.rint(walks[0, first + i] * ratio + start[first + i]), 0.0
        for t in range(1, T):
            for i in range(m):
                saved = np.rint(walks[t, first + i] * ratio + start[first + i])
                square[i] += (saved - last[i]) ** 2
                last[i] = saved
        for i in range(m):
            root += np.sqrt(square[i] / (T - 1))
            total += square[i] / (T - 1)
            changed += square[i] > 0
    return root / n, total / n, changed / n


def _mixtures(table: Array, power: int) -> Array:
    """The table at _SIMULATED, continued beyond (where rounding no longer matters), averaged over each spread."""
    octaves = _GRID / _PER_OCTAVE

    def at(log2_ratio: Array) -> Array:
        beyond = np.maximum(log2_ratio - _SIMULATED[-1] / _PER_OCTAVE, 0)
        return np.interp(log2_ratio, _SIMULATED / _PER_OCTAVE, table) * 2.0 ** (power * beyond)

    nodes = octaves[None, :, None] + _SPREADS[:, None, None] * _NODES / np.log(2)
    return at(nodes) @ (_WEIGHTS / _WEIGHTS.sum())


def fit(moves: Moves, rounded: Rounded) -> Sizes:
    """The step sizes whose walks, rounded, move as the sample does.

    All parameters move where that explains how many changed; else the share that moves is found by bisection, as the
    share that changes grows with it: fewer that move have larger steps, which rounding hides less.
    """
    if moves.square == 0:
        return Sizes(-np.inf, 0.0)
    # what begins at 0 has units that are far finer than the grid, and than any that could round its steps
    unit = np.maximum(moves.unit, 2.0 ** np.floor(np.log2(moves.root) - _FINEST))
    moves = replace(moves, unit=unit)
    octave = np.round(np.log2(unit) * _PER_OCTAVE).astype(int)
    whole, changed = _fit(moves, rounded, octave, 1.0)
    if changed <= moves.changed * (1 + _ALL_MOVE):
        return whole
    few, many = np.log(max(_FEWEST_MOVE, moves.changed / 2)), 0.0
    for _ in range(_HALVINGS):
        middle = (few + many) / 2
        few, many = (few, middle) if _fit(moves, rounded, octave, np.exp(middle))[1] > moves.changed else (middle, many)
    return _fit(moves, rounded, octave, float(np.exp((few + many) / 2)))[0]


def _fit(moves: Moves, rounded: Rounded, octave: Array, share: float) -> tuple[Sizes, float]:
    """The step sizes where that share of the parameters moves, and the share that then changes."""
    wanted, wanted_square = moves.root / share, moves.square / share
    first = round(np.log2(wanted) * _PER_OCTAVE) - 24 * _PER_OCTAVE
    found, spread, changed = _closest(
        octave, moves.unit, moves.weight, rounded.root, rounded.square, rounded.changed, first, wanted, wanted_square
    )
    if spread < 0:
        return Sizes(0.0, 0.0, share), share
    return Sizes(float(found / _PER_OCTAVE * np.log(2)), float(_SPREADS[spread]), share), share * changed


@_compiled
def _closest(octave, unit, weight, root, square, changed, first, wanted, wanted_square):
    """Of medians from `first` on and all spreads, those with the wanted root mean square, and of them the one whose mean
    square misses the wanted one least: its median on the grid, its spread's place, and the share that changes.
    """
    best, closest = (0.0, -1, 0.0), np.inf
    once, twice = weight * unit, weight * unit**2
    for spread in range(root.shape[0]):
        below = above = _average(root[spread], octave, once, first)
        place = 0
        while above <= wanted and place < _MEDIANS - 1:
            place += 1
            below, above = above, max(above, _average(root[spread], octave, once, first + place))
        part = 1.0 if above <= wanted else (wanted - below) / (above - below) if above > below else 0.0
        low, high = first + max(place - 1, 0), first + place
        squares = (1 - part) * _average(square[spread], octave, twice, low)
        squares += part * _average(square[spread], octave, twice, high)
        miss = abs(np.log(squares / wanted_square))
        if miss < closest:
            changes = (1 - part) * _average(changed[spread], octave, weight, low)
            changes += part * _average(changed[spread], octave, weight, high)
            best, closest = (low + part * (high - low), spread, changes), miss
    return best


@_compiled
def _average(row, octave, weight, median):
    """Of a table's row at that median, over all units."""
    total = 0.0
    for k in range(octave.size):
        total += weight[k] * row[min(max(median - octave[k] + _MIDDLE, 0), _GRID.size - 1)]
    return total
