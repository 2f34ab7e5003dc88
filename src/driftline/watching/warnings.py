"""What is warned of while a run is watched: no drift, a direction that is lost, longer increments, a bend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from driftline.linearity import statistics
from driftline.linearity.drift import LEVEL
from driftline.linearity.looks import First, last_look, moving
from driftline.linearity.summary import UNSET, Warned, WeightsSummary
from driftline.watching.collapse import ENOUGH, direction_lost, moving_further


def new_warnings(
    summary: WeightsSummary, rates: np.ndarray, warned: Sequence[Warned], read: int, first: First | None = None
) -> list[Warned]:
    """Each once.

    Args:
        rates: mean learning rate of each interval [T - 1], zeros where that is not known.
        warned: the warnings there have been; read: how many checkpoints were, judged or not.
        first: the first checkpoints, where those that are judged are some of all.
    """
    near = 2 * max(np.diff(summary.steps))
    found = [
        _no_drift(summary, warned, read, first),
        _direction(summary),
        _further(summary, rates),
        _bend(summary),
    ]
    return [
        one
        for one in found
        if one is not None and not any(w.kind == one.kind and abs(w.since - one.since) <= near for w in warned)
    ]


def _no_drift(summary: WeightsSummary, warned: Sequence[Warned], read: int, first: First | None) -> Warned | None:
    """Once in a run, and not of one whose drift was there before."""
    p = summary.verdict.p
    checkpoints = read if summary.jumps is UNSET else summary.jumps.judged.checkpoints
    if summary.verdict.provisional:
        checkpoints = last_look(_moving(summary, first))
    if p is UNSET or checkpoints < ENOUGH or any(one.kind == "no drift" for one in warned):
        return None
    if p.increment_cosine <= LEVEL and min(p.growth_exponent, p.skill) <= LEVEL:
        return None
    sentence = (
        f"no drift is told from chance in the first {checkpoints} checkpoints: the run may learn nothing, or its learning rate may "
        "be too high, which ends in a collapse; look at its reward and entropy"
    )
    return Warned(kind="no drift", since=summary.steps[0], at=summary.steps[-1], sentence=sentence)


def _moving(summary: WeightsSummary, first: First | None) -> int:
    """How many checkpoints the looks are of."""
    if first is not None:
        return moving(first.gram).size
    gram, judged = np.array(summary.gram), np.full(len(summary.steps), True)
    if summary.jumps is not UNSET:
        stretch, steps = summary.jumps.judged, np.array(summary.steps)
        judged = (stretch.from_ <= steps) & (steps <= stretch.to)
    return moving(gram[np.ix_(judged, judged)]).size


def _direction(summary: WeightsSummary) -> Warned | None:
    if summary.jumps is not UNSET:
        return None
    clock = np.array(summary.clock_values)
    beta1 = summary.optimizer.momentum
    since = direction_lost(statistics.increments_gram(np.array(summary.gram)), clock, beta1)
    sentence = "direction lost since step {}: the run goes no further the way it went; it may have learned what it could, or be collapsing, so look at its reward and entropy"
    return _since(summary, "direction lost", since, sentence)


def _further(summary: WeightsSummary, rates: np.ndarray) -> Warned | None:
    if summary.jumps is not UNSET:
        return None
    clock = np.array(summary.clock_values)
    since = moving_further(statistics.increments_gram(np.array(summary.gram)), clock, rates)
    sentence = (
        "increments are more than twice as long as before since step {}, for their learning rate and spacing: if nothing "
        "was changed there, look at the run's reward and entropy"
    )
    return _since(summary, "length", since, sentence)


def _since(summary: WeightsSummary, kind: str, since: float | None, sentence: str) -> Warned | None:
    if since is None:
        return None
    at = summary.steps[int(np.searchsorted(summary.clock_values, since))]
    return Warned(kind=kind, since=at, at=summary.steps[-1], sentence=sentence.format(at))


def _bend(summary: WeightsSummary) -> Warned | None:
    pieces = summary.regime.segments
    if not summary.verdict.linear or len(pieces) < 2:
        return None
    at = pieces[-1].from_
    sentence = f"the run left its straight line at step {at}, in speed or in direction: a forecast from before does not hold beyond it"
    return Warned(kind="bend", since=at, at=summary.steps[-1], sentence=sentence)
