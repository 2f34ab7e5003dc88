"""Tests of a run that is still being written: at few checkpoints, each at a small level, so that all together keep 5 %.

A test at every checkpoint is many tests: of driftless walks, a fifth to a half are called linear at some of them. So a
run is looked at when it has 5, 8, 12, ... checkpoints, and half of the level is spent on these looks in equal parts
(Bonferroni: whatever their dependence); the other half is for the end, over all checkpoints. Between two looks
the verdict stays, and once drift is found it stays for good: a look's alarm counts towards the 5 % whatever is found later.
The first checkpoints give it again at any time: nothing is remembered. A checkpoint that equals the one before it
is not counted: an increment of no length has no direction, and no test can be made with it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from driftline.linearity.drift import LEVEL, DriftTest, drift_test
from driftline.linearity.shrinkage import Shrunk
from driftline.linearity.statistics import increments_lengths, rebased

Array = np.ndarray

LOOKS = (5, 8, 12, 18, 27, 40, 60, 90)  # checkpoints; beyond the last the verdict waits for the end
AT_END = LEVEL / 2
EACH = (LEVEL - AT_END) / len(LOOKS)


@dataclass(frozen=True)
class First:
    """The first checkpoints of a run: Gram [n, n], steps [n] and clock [n]; and what of it is left out, of shrinking weights."""

    gram: Array
    steps: Array
    clock: Array
    shrunk: Shrunk | None = None


@dataclass(frozen=True)
class Look:
    """What is known of a run that is followed.

    Attributes:
        ended: whether its last checkpoint is that of its training's end.
        first: its first checkpoints, as many as there are looks of, where those judged are only some of all.
        shrunk: what is left out of its Gram before it is tested.
    """

    ended: bool
    first: First | None = None
    shrunk: Shrunk | None = None


def looked(
    look: Look, whole: DriftTest | None, gram: Array, steps: Array, clock: Array, beta1: float
) -> DriftTest | None:
    """The test that the verdict rests on, with its level: of the end, if it finds drift; else of the first look that found
    it; else of the end, or, where there is none yet or it cannot be made, of the last look. None before the first look.

    Args:
        gram: [T, T], of which `look.shrunk` was not left out yet: of each look it is what shrank until then.
        whole: the test over all checkpoints [T], which is that of the end; None where it cannot be made.
    """
    end = replace(whole, level=AT_END) if look.ended and whole is not None else None
    if end is not None and end.linear:
        return end
    seen = First(gram, steps, clock, look.shrunk)
    test = _of_looks(whole, seen, beta1) if look.first is None else _of_looks(None, look.first, beta1)
    return test if end is None or (test is not None and test.linear) else end


def _of_looks(whole: DriftTest | None, seen: First, beta1: float) -> DriftTest | None:
    """Of the first look that found drift, else of the last one that could be made."""
    test, moved = None, moving(seen.gram)
    for count in [count for count in LOOKS if count <= moved.size]:
        rows = moved[:count]
        if whole is not None and count == seen.steps.size:
            found: DriftTest | None = whole
        else:
            until = int(rows[-1]) + 1
            judged = seen.gram[:until, :until] - (seen.shrunk.until(until) if seen.shrunk else 0.0)
            found = _test_of(rebased(judged, rows), seen.steps[rows], seen.clock[rows], beta1)
        test = test if found is None else replace(found, level=EACH)
        if test is not None and test.linear:
            return test
    return test


def moving(gram: Array) -> Array:
    """The checkpoints that are looked at: the first one, and all that differ from the one before them.

    Of equal ones the first is kept, so that one more checkpoint never changes what an earlier look was of.
    """
    return np.flatnonzero(np.append(True, increments_lengths(gram) > 0))


def _test_of(gram: Array, steps: Array, clock: Array, beta1: float) -> DriftTest | None:
    return _tested(gram.astype(np.float64).tobytes(), tuple(steps.tolist()), tuple(clock.tolist()), beta1)


@lru_cache(maxsize=4 * len(LOOKS))  # the first checkpoints are looked at again with every one that follows
def _tested(gram: bytes, steps: tuple[int, ...], clock: tuple[float, ...], beta1: float) -> DriftTest | None:
    square = np.frombuffer(gram).reshape(len(steps), len(steps))
    return drift_test(square, np.array(steps), np.array(clock), beta1)


def last_look(checkpoints: int) -> int:
    """How many checkpoints there were at the last look at a run that has so many `moving` ones now; 0 before the first."""
    return max((count for count in LOOKS if count <= checkpoints), default=0)
