"""Which checkpoints of a long run are kept, so that one more costs as much at the ten-thousandth as at the hundredth.

Statistics of T checkpoints take time as T cubed and room as T squared. So a run of more than `KEPT` is judged by that
many or fewer, spread evenly over it, and its last. The first ninety are kept beside them: they give every look at the
run again (`linearity.looks`), whatever became of it. Of a shorter run nothing is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from driftline.linearity.looks import LOOKS

KEPT = 128  # checkpoints that are judged
FIRST = LOOKS[-1]


def spread(steps: Sequence[int], apart: float) -> tuple[list[int], float]:
    """The steps that are judged, in order, and how far they are apart.

    Args:
        apart: as it was before, 0 of a run that was never thinned; it doubles when they are too many.
    """
    if not apart and len(steps) <= KEPT:
        return list(steps), 0.0
    apart = apart or float(np.median(np.diff(steps[:FIRST])))
    while len(found := _at_least(apart, steps)) > KEPT:
        apart *= 2
    return found, apart


def _at_least(apart: float, steps: Sequence[int]) -> list[int]:
    """The first step, each that is so far from the one before, and the last."""
    found = [steps[0]]
    for step in steps[1:]:
        if step - found[-1] >= apart:
            found.append(step)
    return found if found[-1] == steps[-1] else [*found, steps[-1]]
