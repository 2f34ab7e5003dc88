"""What is warned of while a run is watched: a collapse, a bend, a drift that is lost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from driftline.linearity import statistics
from driftline.linearity.summary import UNSET, Line, Warned, WeightsSummary
from driftline.watching.collapse import collapse


def new_warnings(
    summary: WeightsSummary, spans: np.ndarray, earlier: Sequence[Line], warned: Sequence[Warned]
) -> list[Warned]:
    """Each once.

    Args:
        spans: learning rate x steps of each interval [T - 1], zeros where that is not known.
        earlier: the lines of the checkpoints before the last; warned: the warnings there have been.
    """
    near = 2 * max(np.diff(summary.steps))
    found = [_collapse(summary, spans), _bend(summary), _lost(summary, earlier)]
    return [
        one
        for one in found
        if one is not None and not any(w.kind == one.kind and abs(w.since - one.since) <= near for w in warned)
    ]


def _collapse(summary: WeightsSummary, spans: np.ndarray) -> Warned | None:
    if summary.jumps is not UNSET:
        return None
    clock = np.array(summary.clock_values)
    since = collapse(statistics.increments_gram(np.array(summary.gram)), clock, spans)
    if since is None:
        return None
    at = summary.steps[int(np.searchsorted(clock, since))]
    sentence = f"this run may be collapsing since step {at}: look at its reward and entropy"
    return Warned(kind="collapse", since=at, at=summary.steps[-1], sentence=sentence)


def _bend(summary: WeightsSummary) -> Warned | None:
    pieces = summary.regime.segments
    if not summary.verdict.linear or len(pieces) < 2:
        return None
    at = pieces[-1].from_
    sentence = f"the run left its straight line at step {at}, in speed or in direction: a forecast from before does not hold beyond it"
    return Warned(kind="bend", since=at, at=summary.steps[-1], sentence=sentence)


def _lost(summary: WeightsSummary, earlier: Sequence[Line]) -> Warned | None:
    lately = [line.verdict for line in earlier[-4:]]
    if summary.verdict.linear or lately[:3] != ["linear"] * 3 or lately[3:] in ([], ["linear"]):
        return None
    since = earlier[-1].step
    sentence = f"since step {since} the run's drift is no longer told from chance"
    return Warned(kind="chance", since=since, at=summary.steps[-1], sentence=sentence)
