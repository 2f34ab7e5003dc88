"""Back-tests of `next`, whose forecasts are no combinations of checkpoints: what it predicts joins them in the Gram.

At a cutoff the networks are trained on what had happened by then, and forecast checkpoints 1, 2, 4, 8, ... further on.
With the predicted changes M_f = sigma u vᵀ as further rows of the Gram, beside the deltas D_t of the checkpoints, a
forecast is the cutoff's checkpoint plus a multiple of M_f, and its errors are quadratic forms as everyone's are:
<M_f, D_t> = sigma uᵀ D_t v takes a second reading of the weights, <M_f, M_g> none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import numpy as np

from driftline.checkpoints.trajectory import TensorSeries, Trajectory
from driftline.errors import InputError
from driftline.forecast.backtest import Scores, Tested, pooled, quadratic
from driftline.forecast.lessons import FEWEST_CHECKPOINTS, Lesson, changes, lesson
from driftline.forecast.networks import Training
from driftline.forecast.nonlinear import predict
from driftline.forecast.observations import Observations
from driftline.forecast.rank_one import RankOne, is_matrix_of_a_layer, read_matrix
from driftline.progress import OpenBar, no_bar

Array = np.ndarray

_MOST = 6  # cutoffs: each trains networks anew for every distance


@dataclass(frozen=True)
class Trial:
    """A forecast of row `target` from the rows up to `cutoff`: the predicted change of number `move`, times `times`."""

    cutoff: int
    target: int
    move: int
    times: float


def trials(clock: Array) -> tuple[list[Trial], list[tuple[int, Lesson]]]:
    """What is forecast, and the moves that it takes: (cutoff, lesson), with nothing later than the cutoff in a lesson."""
    found: list[Trial] = []
    moves: list[tuple[int, Lesson]] = []
    first, last = FEWEST_CHECKPOINTS - 1, clock.size - 2
    if last < first:
        return found, moves
    for cutoff in np.unique(np.linspace(first, last, _MOST).round().astype(int)).tolist():
        distance = 1
        while cutoff + distance < clock.size:
            ahead = float(clock[cutoff + distance] - clock[cutoff])
            learned = lesson(clock[: cutoff + 1], ahead)
            if learned is not None:
                if (cutoff, learned) not in moves:
                    moves.append((cutoff, learned))
                move = moves.index((cutoff, learned))
                found.append(Trial(cutoff, cutoff + distance, move, ahead / learned.ahead))
            distance *= 2
    return found, moves


def try_next(
    trajectory: Trajectory, observed: Observations, progress: OpenBar = no_bar, training: Training | None = None
) -> Tested:
    """The scores of each group (layer, module), and the skill pooled by horizon, of the run that was observed.

    Raises:
        InputError: too few checkpoints, or no matrix inside a layer.
    """
    training, clock = training or Training(), observed.clock
    part = trajectory.only(observed.steps.tolist())
    matrices = [tensor for tensor in part if is_matrix_of_a_layer(tensor)]
    tried, wanted = trials(clock)
    if not tried or not matrices:
        raise InputError(
            f"{trajectory.name}: --next trains on the run's past, and {observed.steps.size} checkpoints with "
            f"{len(matrices)} matrices inside layers leave nothing to test it on: it takes {FEWEST_CHECKPOINTS + 1} "
            "checkpoints, evenly spaced; leave --next out"
        )
    moves = _predicted(matrices, wanted, clock, training, progress)
    with progress("reading weights", sum(info.read_bytes for t in matrices for info in t.stored)) as advance:
        further = {
            tensor.name: _rows(tensor, [move.get(tensor.name) for move in moves], advance) for tensor in matrices
        }

    T, M = clock.size, len(moves)
    cutoff, target = (np.array([getattr(one, name) for one in tried]) for name in ("cutoff", "target"))
    unit = np.eye(T + M)
    true, last = unit[target], unit[cutoff]
    a = last + np.array([[one.times] for one in tried]) * unit[[T + one.move for one in tried]]
    groups: dict[tuple[int | None, str], Scores] = {}
    total = np.zeros((T + M, T + M))
    for key, members, gram in observed.units("group"):
        whole = sum((further[name] for name in members if name in further), np.zeros((T + M, T + M)))
        whole[:T, :T] = gram
        groups[key] = Scores(cutoff, target, *(quadratic(b, whole) for b in (a - true, last - true, a - last)))
        total += whole
    return groups, pooled(reduce(Scores.__add__, groups.values()), observed, a, total)


def _predicted(
    matrices: list[TensorSeries], wanted: list[tuple[int, Lesson]], clock: Array, training: Training, progress: OpenBar
) -> list[dict[str, RankOne]]:
    """Each move of every matrix; a matrix that had not moved by the cutoff has none."""
    pairs = {pair for _, learned in wanted for pair in learned.pairs}
    with progress("reading weights", sum(info.read_bytes for t in matrices for info in t.stored[1:])) as advance:
        known = {tensor.name: changes(tensor, pairs, advance) for tensor in matrices}
    found = []
    with progress("training networks", len(wanted), unit="moves") as advance:
        for cutoff, learned in wanted:
            moving = {name: matrix for name, matrix in known.items() if matrix.far[cutoff].sigma > 0}
            found.append(predict(moving, learned, clock[: cutoff + 1], training)[0] if moving else {})
            advance(1)
    return found


def _rows(tensor: TensorSeries, moves: list[RankOne | None], advance: Callable[[int], None]) -> Array:
    """The Gram [T + M, T + M] of a matrix's deltas and moves, but for that of the deltas, which is 0."""
    T, M = len(tensor.stored), len(moves)
    left = np.stack([np.zeros(tensor.shape[0]) if one is None else one.sigma * one.left for one in moves])
    right = np.stack([np.zeros(tensor.shape[1]) if one is None else one.right for one in moves])
    whole = np.zeros((T + M, T + M))
    whole[T:, T:] = (left @ left.T) * (right @ right.T)
    first, columns = read_matrix(tensor, 0), right.T.astype(np.float32)
    advance(tensor.stored[0].read_bytes)
    for row in range(1, T):
        delta = read_matrix(tensor, row) - first
        whole[row, T:] = whole[T:, row] = np.einsum("mf,fm->f", delta @ columns, left)
        advance(tensor.stored[row].read_bytes)
    return whole
