"""Statistics of a small matrix [T, n]: log-probs of tokens, or activations of units, at every checkpoint.

The same figures as for weights, by the same code. The null has the run's steps and momentum; with a filter,
each driftless walk moves as far per interval as one of the series does, and passes the same filter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from driftline.checkpoints.jumps import Regrounded
from driftline.linearity import figures, null
from driftline.linearity.statistics import line_r2
from driftline.linearity.verdict import verdict

Array = np.ndarray

PAPER_CHANGE = 0.2  # nats between first and last checkpoint: the reference code's filter of tokens
PAPER_MOST = 100_000  # tokens it samples
_WALKS = 200_000


@dataclass(frozen=True)
class Lines:
    """The least-squares line of every series, [n]: R² (NaN where constant) and slope per unit of clock."""

    r2: Array
    slope: Array


def lines(values: Array, clock: Array) -> Lines:
    """Lines of `values` [T, n] against the clock [T]."""
    centred = clock - clock.mean()
    deltas = (values - values[0]).T.astype(np.float64)
    return Lines(line_r2(clock, deltas), (deltas - deltas.mean(1, keepdims=True)) @ centred / (centred @ centred))


def summarize(
    values: Array, steps: Sequence[int], clock: Array, beta1: float, *, what: str, jumps: Regrounded | None = None
) -> dict[str, Any]:
    """The keys that `summary.json` shares with that of weights, over all series that changed.

    Args:
        values: [T, n]; what: their name in the counts, such as `tokens`; jumps: of a run that was re-grounded.
    """
    deltas = (values - values[0]).astype(np.float64)
    population = null.population_of(lines(values, clock).r2)
    changed = int((np.ptp(values, axis=0) > 0).sum())
    chance = null.null_r2(np.asarray(steps), clock, beta1)
    statistics, test = figures.of_trajectory(deltas @ deltas.T, np.asarray(steps), clock, beta1, jumps)
    summary = {
        "parameters": {
            "total": values.shape[1],
            "measured": changed,
            "unchanged": values.shape[1] - changed,
            "filtered": 0,
        },
        "counted": what,
        **figures.of_r2(population, chance, {}),
        **statistics,
    }
    summary["steps"] = list(steps)
    if jumps:
        summary["jumps"] = jumps.summary()
    return summary | {"verdict": verdict(test, summary)}


def paper_filter(values: Array, steps: Sequence[int], clock: Array, beta1: float, seed: int = 0) -> dict[str, Any]:
    """R² of the series that the paper keeps, beside driftless walks that pass the same filter.

    The filter, more than 0.2 between the first and the last checkpoint, selects on the trend being tested:
    a walk that happens to end far away looks straight. So its null passes it too.
    """
    rng = np.random.default_rng(seed)
    kept = np.flatnonzero(np.abs(values[-1] - values[0]) > PAPER_CHANGE)
    sampled = kept if kept.size <= PAPER_MOST else rng.choice(kept, PAPER_MOST, replace=False)
    population = null.population_of(lines(values[:, sampled], clock).r2)
    walks = _walks(values, steps, beta1, rng)
    passing = np.abs(walks[:, -1]) > PAPER_CHANGE
    chance = null.population_of(line_r2(clock, walks[passing]))
    return {
        "threshold": PAPER_CHANGE,
        "kept": int(kept.size),
        "kept_share": kept.size / values.shape[1],
        "null_kept_share": float(passing.mean()),
        "r2": figures.shares_of(population),
        "null_r2": figures.shares_of(chance),
        "r2_histogram": {"run": figures.coarse(population), "null": figures.coarse(chance)},
    }


def _walks(values: Array, steps: Sequence[int], beta1: float, rng: np.random.Generator) -> Array:
    """Driftless walks [walks, T] from 0, each with the rms increment of one of the series."""
    sizes = np.sqrt(np.mean(np.diff(values.astype(np.float64), axis=0) ** 2, axis=0))
    root = null.walk_root(np.asarray(steps), beta1)
    root = root / np.sqrt(np.mean(np.sum(np.diff(root, axis=0) ** 2, axis=1)))
    chosen = rng.choice(sizes, _WALKS)
    return (rng.standard_normal((_WALKS, root.shape[1])) @ root.T) * chosen[:, None]
