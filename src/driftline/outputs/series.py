"""Statistics of a small matrix [T, n]: log-probs of tokens, or activations of units, at every checkpoint.

The same figures as for weights, by the same code. The null has the run's steps, momentum and lengths; with a filter,
each driftless walk moves as far per interval as one of the series does, and passes the same filter.

Outputs bend, so a driftless walk of weights is not one of outputs. A walk with variance v makes a log-prob lose v / 2 a
step on average, the KL from where its response was sampled; over hundreds of tokens that is a drift, and a test that
is right for weights finds it. So before the test two directions are taken out of the changes: what all series share,
and what each does in proportion to the squares of its own steps. In simulations of softmax outputs the test then
found drift in none of 160 walks, at .02 to .7 nats of KL, where it found it in 2 to 85 % before; with the first direction
alone in up to 42 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from driftline.files.record import UNSET
from driftline.linearity import figures, null
from driftline.linearity.figures import Facts, SomeSummary
from driftline.linearity.statistics import increments_lengths, line_r2
from driftline.linearity.summary import Counts, Histograms, PaperFilter

Array = np.ndarray

PAPER_CHANGE = 0.2  # nats between first and last checkpoint: the reference code's filter of tokens
PAPER_MOST = 100_000  # tokens it samples
_WALKS = 200_000
_TAKEN_OUT = (
    "(The test leaves out what all {what} do alike, and what each does by as much as it wanders: "
    "weights without drift make them do both.)"
)


@dataclass(frozen=True)
class FittedLines:
    """The least-squares line of every series, [n]: R² (NaN where constant) and slope per unit of clock."""

    r2: Array
    slope: Array


def lines(values: Array, clock: Array) -> FittedLines:
    """FittedLines of `values` [T, n] against the clock [T]."""
    centred = clock - clock.mean()
    deltas = deltas_of(values).T
    return FittedLines(line_r2(clock, deltas), (deltas - deltas.mean(1, keepdims=True)) @ centred / (centred @ centred))


def summarize(kind: type[SomeSummary], values: Array, facts: Facts, *, what: str, **more: Any) -> SomeSummary:
    """The summary of `values` [T, n], over all series that changed.

    Args:
        what: their name in the counts, such as `tokens`; more: what the kind has besides.
    """
    deltas = deltas_of(values)
    changed = int((np.ptp(values, axis=0) > 0).sum())
    gram = deltas @ deltas.T
    chance = null.null_r2(np.asarray(facts.steps), facts.clock_values, facts.beta1, lengths=increments_lengths(gram))
    counts = Counts(total=values.shape[1], measured=changed, unchanged=values.shape[1] - changed, filtered=0)
    summary = figures.summary(
        kind,
        facts,
        gram,
        null.population_of(lines(values, facts.clock_values).r2),
        figures.null_shares_of(chance),
        figures.coarse(chance),
        counts,
        judged=judged(values),
        counted=what,
        **more,
    )
    if summary.verdict.p is UNSET:  # nothing could be tested
        return summary
    said = f"{summary.verdict.sentence} {_TAKEN_OUT.format(what=what)}"
    return msgspec.structs.replace(summary, verdict=msgspec.structs.replace(summary.verdict, sentence=said))


def deltas_of(values: Array) -> Array:
    """From the first row, [T, n] in float64: small increments of large values are not rounded."""
    deltas = values.astype(np.float64)
    deltas -= deltas[0].copy()
    return deltas


def judged(values: Array) -> Array:
    """The Gram [T, T] of the changes of `values` [T, n] without what driftless weights make them do.

    Taken out are the mean over series, and the direction of each series' mean squared step.
    """
    deltas = deltas_of(values)
    wander = np.square(np.diff(deltas, axis=0)).mean(0)
    taken, _ = np.linalg.qr(np.stack([np.ones_like(wander), wander], axis=1))
    left = deltas - deltas @ taken @ taken.T
    return left @ left.T


def paper_filter(values: Array, facts: Facts, seed: int = 0) -> PaperFilter:
    """R² of the series that the paper keeps, beside driftless walks that pass the same filter.

    The filter, more than 0.2 between the first and the last checkpoint, selects on the trend being tested:
    a walk that happens to end far away looks straight. So its null passes it too.
    """
    rng, clock = np.random.default_rng(seed), facts.clock_values
    kept = np.flatnonzero(np.abs(values[-1] - values[0]) > PAPER_CHANGE)
    sampled = kept if kept.size <= PAPER_MOST else rng.choice(kept, PAPER_MOST, replace=False)
    population = null.population_of(lines(values[:, sampled], clock).r2)
    walks = _walks(values, facts.steps, facts.beta1, rng)
    passing = np.abs(walks[:, -1]) > PAPER_CHANGE
    chance = null.population_of(line_r2(clock, walks[passing]))
    return PaperFilter(
        threshold=PAPER_CHANGE,
        kept=int(kept.size),
        kept_share=kept.size / values.shape[1],
        null_kept_share=float(passing.mean()),
        r2=figures.shares_of(population),
        null_r2=figures.shares_of(chance),
        r2_histogram=Histograms(run=figures.coarse(population), null=figures.coarse(chance)),
    )


def _walks(values: Array, steps: Sequence[int], beta1: float, rng: np.random.Generator) -> Array:
    """Driftless walks [walks, T] from 0, each with the rms increment of one of the series, and intervals as long in proportion."""
    squares = np.diff(values.astype(np.float64), axis=0) ** 2
    sizes = np.sqrt(np.mean(squares, axis=0))
    root = null.walk_root(np.asarray(steps), beta1, np.sqrt(squares.sum(1)))
    spread = np.sqrt(np.mean(np.sum(np.diff(root, axis=0) ** 2, axis=1)))
    root = root / spread if spread else root  # of outputs that never change
    chosen = rng.choice(sizes, _WALKS)
    return (rng.standard_normal((_WALKS, root.shape[1])) @ root.T) * chosen[:, None]
