"""What NExt learns from: origins within the run, all looking equally far ahead, and the changes of every matrix there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from driftline.checkpoints.trajectory import TensorSeries
from driftline.forecast.rank_one import RankOne, leading, read_matrix
from driftline.progress import Advance, unseen

Array = np.ndarray
Pair = tuple[int, int]  # rows of an origin and of a later checkpoint

FEWEST = 3  # origins
FEWEST_CHECKPOINTS = FEWEST + 2  # the first has no change behind it, the last nothing ahead


@dataclass(frozen=True)
class Lesson:
    """Origins and what followed: pairs of rows, `ahead` apart on the clock."""

    pairs: tuple[Pair, ...]
    ahead: float


def lesson(clock: Array, ahead: float) -> Lesson | None:
    """Of checkpoints [T]: the origins that look as far ahead as is asked, if there are three.

    Otherwise those that look furthest of the shorter ones, or nearest of the longer ones; None where no three look equally
    far. Distances are rounded to multiples of the median interval.
    """
    unit = float(np.median(np.diff(clock)))
    by_distance: dict[int, list[Pair]] = {}
    for origin in range(1, clock.size):
        for later in range(origin + 1, clock.size):
            by_distance.setdefault(round(float(clock[later] - clock[origin]) / unit), []).append((origin, later))
    able = {distance: pairs for distance, pairs in by_distance.items() if distance and len(pairs) >= FEWEST}
    if not able:
        return None
    wanted = max(round(ahead / unit), 1)
    chosen = max((distance for distance in able if distance <= wanted), default=min(able))
    pairs = able[chosen]
    return Lesson(tuple(pairs), float(np.mean([clock[later] - clock[origin] for origin, later in pairs])))


@dataclass(frozen=True)
class Changes:
    """Leading directions of the changes of a matrix: `far[r]` from the first checkpoint to row r, `near[r]` from the row
    before, `ahead` of each pair. Signs are those of `far`, which keep theirs from row to row; row 0 has none."""

    far: dict[int, RankOne]
    near: dict[int, RankOne]
    ahead: dict[Pair, RankOne]


def changes(tensor: TensorSeries, pairs: Iterable[Pair], advance: Advance = unseen) -> Changes:
    """Of one matrix; four checkpoints of it in memory at a time."""
    found, wanted = Changes({}, {}, {}), set(pairs)
    first = before = read_matrix(tensor, 0)
    for row in range(1, len(tensor.stored)):
        now = read_matrix(tensor, row)
        far = leading(now - first)
        found.far[row] = far.agreeing(found.far[row - 1]) if row > 1 else far.oriented()
        found.near[row] = leading(now - before).agreeing(found.far[row])
        for origin, later in sorted(wanted):
            if origin == row:
                found.ahead[origin, later] = leading(read_matrix(tensor, later) - now).agreeing(found.far[row])
        before = now
        advance(tensor.stored[row].read_bytes)
    return found
