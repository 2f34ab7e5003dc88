"""Where the run is straight: its exact segmentation into straight pieces, from the Gram matrix.

The sum of squared residuals of a straight line over any stretch of checkpoints is a function of that
stretch's block of G, so dynamic programming finds the best cut into m pieces exactly. Neighbouring
pieces share the checkpoint where they meet. How many pieces: every walk can be cut into pieces
that fit better, so a cut counts only by how much more it gains than the same cut of a driftless walk
that moves as much, and each must gain a factor `MARGIN` more (compare the gap statistic, Tibshirani
et al. 2001). A piece is straight in direction and steady in speed against the clock: a run that keeps its direction
while its learning rate falls is cut too, unless the clock is the summed rate.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

Array = np.ndarray

MARGIN = 2.0  # each cut must lower the squared residuals this many times more than it would a walk's
_MOST_PIECES = 8
_FEWEST_POINTS = 3
_EXACT = 1e-6  # a line that leaves no more of the squares than sums in float32 do has no bends


@dataclass(frozen=True)
class Segment:
    """A straight piece: first and last checkpoint (row numbers), and R² of its line over all weights."""

    first: int
    last: int
    r2: float


def residuals(gram: Array, clock: Array) -> tuple[Array, Array]:
    """Squared residuals of a line, and of a constant, over checkpoints i..j: two [T, T], for i <= j."""
    T = clock.size
    centre = np.eye(T) - 1 / T
    G = centre @ gram @ centre
    tau = (clock - clock.mean()) / max(np.ptp(clock), 1e-300)

    def blocks(matrix: Array) -> Array:
        """Sum over t, u in i..j of matrix[t, u], for all i, j."""
        p = np.zeros((T + 1, T + 1))
        p[1:, 1:] = matrix.cumsum(0).cumsum(1)
        ends = np.arange(1, T + 1)
        corner = np.diag(p)
        return corner[ends][None, :] - p[:-1, 1:] - p[1:, :-1].T + corner[:-1][:, None]

    def runs(vector: Array) -> Array:
        p = np.concatenate([[0.0], np.cumsum(vector)])
        return p[1:][None, :] - p[:-1][:, None]

    n = np.maximum(runs(np.ones(T)), 1)
    mean = runs(tau) / n
    square = runs(tau**2) - n * mean**2
    total = blocks(G)
    explained = blocks(np.outer(tau, tau) * G) - 2 * mean * blocks(tau[:, None] * G) + mean**2 * total
    constant = runs(np.diag(G)) - total / n
    with np.errstate(invalid="ignore", divide="ignore"):
        line = constant - np.where(square > 1e-12, explained / square, 0.0)
    floor = 1e-12 * max(constant[0, -1], 0.0)
    return np.maximum(line, floor), np.maximum(constant, floor)


def best_cuts(line: Array) -> tuple[list[float], list[list[int]]]:
    """For m = 1, 2, ... pieces: the least total of squared residuals, and the knots (0, ..., T - 1)."""
    T = line.shape[0]
    first, last = np.indices((T, T))
    cost = np.where(last - first >= _FEWEST_POINTS - 1, line, np.inf)
    totals, knots = [cost[0]], [[[0]] * T]
    for _ in range(min(_MOST_PIECES, (T - 1) // (_FEWEST_POINTS - 1)) - 1):
        through = totals[-1][:, None] + cost
        where = through.argmin(0)
        knots.append([[*knots[-1][where[j]], int(where[j])] for j in range(T)])
        totals.append(through.min(0))
    return [float(total[-1]) for total in totals], [[*knot[-1], T - 1] for knot in knots]


def segments(gram: Array, clock: Array, null_gram: Array) -> list[Segment]:
    """The straight pieces of the run, in order.

    Args:
        null_gram: of a driftless walk whose increments are as long as the run's, see `null.matched_gram`.
    """
    line, constant = residuals(gram, clock)
    totals, knots = best_cuts(line)
    chance, _ = best_cuts(residuals(null_gram, clock)[0])
    if not totals[0] > _EXACT * constant[0, -1]:
        pieces = 0
    else:
        penalised = np.log(totals) - np.log(chance) + np.arange(len(totals)) * np.log(MARGIN)
        pieces = int(penalised.argmin())
    ends = knots[pieces]
    return [
        Segment(i, j, float(1 - line[i, j] / constant[i, j]) if constant[i, j] > 0 else float("nan"))
        for i, j in itertools.pairwise(ends)
    ]
