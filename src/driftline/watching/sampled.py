"""R² and the like of a run that is watched, from the weights that were sampled of each checkpoint."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from driftline.linearity import kernels
from driftline.linearity.analysis import RunTotals
from driftline.linearity.scan import Population
from driftline.linearity.shrinkage import Shrunk
from driftline.linearity.step_sizes import Moves, moves_of
from driftline.linearity.summary import Sampled
from driftline.watching.sketch import BUCKETS
from driftline.watching.state import State

_BLOCK_VALUES = 1 << 21  # of the sample, in memory at once
_MOVES_VALUES, _MOVES_EACH = 1 << 24, 4096  # trajectories for the matched null: in all, and of a tensor


def totals_of(state: State, steps: list[int], clock: np.ndarray, gram: np.ndarray) -> RunTotals:
    """R² and the like of the sample, in blocks: see `kernels.accumulate`."""
    T = len(steps)
    centred = clock - clock.mean()
    tau = (centred / np.sqrt(np.mean(centred**2))).astype(np.float32)
    sums, histograms = np.zeros((2, 3)), np.zeros((2, kernels.R2_BINS), np.int64)
    distinct, slopes, kept = np.zeros(4, np.int64), np.zeros(3), np.zeros(T - 1, np.int64)
    chosen = _chosen(state, T)
    taken, along = [], np.zeros((len(state.parts), T + 1))
    for start, raw in state.samples(steps, max(_BLOCK_VALUES // T, 1)):
        kernels.accumulate(raw, tau, sums, histograms, distinct, slopes, kept, np.zeros((T, T)))
        first, last = np.searchsorted(chosen, [start, start + raw.shape[1]])
        taken.append(raw[:, chosen[first:last] - start].T)
        _add_along(state, start, raw, along)
    populations = [
        Population(int(row[kernels.COUNT]), float(row[kernels.SUM_R2]), int(row[kernels.STRONG]), histogram)
        for row, histogram in zip(sums, histograms, strict=True)
    ]
    moves = _moves(state, np.concatenate(taken), chosen, state.rows[steps[-1]].dtypes)
    return RunTotals(populations, gram, kept, distinct, state.positions.size, moves, _shrunk(state, steps[0], along))


def shrunk_of(state: State, steps: list[int]) -> Shrunk:
    """What lies along the first weights, of checkpoints of which nothing else is asked."""
    along = np.zeros((len(state.parts), len(steps) + 1))
    for start, raw in state.samples(steps, max(_BLOCK_VALUES // len(steps), 1)):
        _add_along(state, start, raw, along)
    return _shrunk(state, steps[0], along)


def _add_along(state: State, start: int, raw: np.ndarray, along: np.ndarray) -> None:
    """Of a block [T, n] of the sample, each tensor's products of the deltas with the first weights, and the square of these."""
    for row, part in zip(along, state.parts, strict=True):
        ends = np.searchsorted(state.positions, [part.start, part.stop])
        first, last = np.clip(ends - start, 0, raw.shape[1])
        if first < last:
            values = raw[:, first:last].astype(np.float64)
            row[:-1] += (values - values[0]) @ values[0]
            row[-1] += values[0] @ values[0]


def _shrunk(state: State, first: int, along: np.ndarray) -> Shrunk:
    """What lies along the first weights, of all of them as of those that were sampled."""
    found = Shrunk()
    for row, part in zip(along, state.parts, strict=True):
        sampled = np.subtract(*np.searchsorted(state.positions, [part.stop, part.start]))
        if sampled and state.rows[first].whole:
            row = row * ((part.stop - part.start) / sampled)
            found.add(row[:-1], float(row[-1]), part.stop - part.start)
    return found


def _chosen(state: State, T: int) -> np.ndarray:
    """Columns of the sample, ascending, whose trajectories say how far the weights of each tensor move."""
    each = max(min(_MOVES_VALUES // (T * len(state.parts)), _MOVES_EACH), 1)
    columns = []
    for part in state.parts:
        first, last = np.searchsorted(state.positions, [part.start, part.stop])
        columns.append(np.unique(np.linspace(first, last - 1, min(each, last - first)).astype(np.int64)))
    return np.concatenate(columns)


def _moves(state: State, taken: np.ndarray, chosen: np.ndarray, dtypes: list[str]) -> list[Moves]:
    rng = np.random.default_rng(0)
    found = []
    for part, dtype in zip(state.parts, dtypes, strict=True):
        first, last = np.searchsorted(state.positions[chosen], [part.start, part.stop])
        if first < last:
            found.append(moves_of(taken[first + rng.permutation(last - first)], part.stop - part.start, dtype))
    return found


def sampled(state: State, judged: int) -> Sampled:
    """What of the run the figures are of: of so many of its checkpoints."""
    N, n, m = state.parameters, state.positions.size, min(BUCKETS, state.parameters)
    gram = "every weight enters the Gram matrix" + ("" if N <= BUCKETS else f", by a sketch of {m:,} numbers")
    r2 = (
        "R² and shares are of every weight" if n == N else f"R² and shares are of {n:,} of {N:,} weights, spread evenly"
    )
    found = Sampled(
        weights=n,
        of=N,
        sketch=m,
        gram_standard_error=0.0 if N <= BUCKETS else math.sqrt(2 / m),
        sentence=f"{gram}; {r2}.",
    )
    if not state.thinned:
        return found
    count = state.read_ever
    some = f"the figures are of {judged:,} of {count:,} checkpoints, spread evenly"
    return msgspec.structs.replace(found, sentence=f"{gram}; {r2}; {some}.", checkpoints=judged, of_checkpoints=count)
