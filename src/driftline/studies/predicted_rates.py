"""What was predicted of a batch and a seed, what came of it, and what all of that says.

The rules are in docs/studies.md: what is counted, what is not, and what was fixed when.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from driftline.files.record import UNSET, Figure, Record, UnsetType
from driftline.studies.record import STRATEGY

WINDOW, SAFE = (0.25, 0.75), 0.5  # of kappa times the lowest rate
QUARTER = 0.25  # of the second rule
WITHIN = 2.0
NOISED = "half of the rewards by coin"  # a kind of run
_SEEN = {(STRATEGY, batch, seed) for batch in (2, 8) for seed in (0, 1)}  # pairs that the second rule was made from


class PredictedRate(Record, kw_only=True):
    """Of a batch and a seed by one model; intervals [low, high] of 95 %, None for an open end."""

    model: str
    kind: str | UnsetType = UNSET  # of run, where it is not the usual one
    batch: int
    seed: int
    rate: float
    steps: int
    factor: Figure
    factor_interval: list[Figure]
    noise_scale: Figure
    noise_scale_interval: list[Figure]
    persistence: Figure
    persistence_interval: list[Figure]
    written: str | None


class PredictedRates(Record):
    """`predictions.json`."""

    driftline: str
    predictions: list[PredictedRate]


class RanAt(Record):
    """A run at a rate: accuracy over its first steps, and whether it collapsed."""

    rate: float
    over_limit: Figure
    mean_sampled: float
    sampled: list[float]
    greedy: list[float]
    collapsed: bool


class Cell(Record):
    """What was predicted of a batch and a seed, and what came; None where the runs do not tell.

    `best` is what the rule is about; `best_at_the_end` the rate of the highest score at the last step that all have.
    """

    task: str
    prediction: PredictedRate
    runs: list[RanAt]
    best: float | None
    best_at_the_end: float | None
    nearest_to_a_quarter: float | None
    margin: float | None
    in_window: bool | None
    in_window_by_chance: float | None
    collapses_below: list[float]
    tried_below: int


def findings(rows: Sequence[Cell]) -> list[str]:
    """Of one model's rows: each, then what is counted, runs of other kinds apart."""
    told = [row for row in rows if row.best is not None]
    usual, others = ([row for row in rows if bool(row.prediction.kind) is other] for other in (False, True))
    return [
        *(
            f"{_named(p)}: largest useful rate {(p.factor or 0) * p.rate:.1e} "
            f"({_range(p.factor_interval, p.rate)}) from {p.steps} steps at {p.rate:g}; best of the rates tried {row.best:g}, "
            f"{_where(row)}."
            for row in told
            for p in [row.prediction]
        ),
        *_counted(usual),
        *(f"Of other kinds. {sentence}" for sentence in _counted(others)),
        *_noise_scales(usual),
        *_noised(rows),
    ]


def _counted(rows: Sequence[Cell]) -> list[str]:
    """Hits and misses of the rules."""
    found, told = [], [row for row in rows if row.best is not None]
    decided = [row for row in told if row.in_window is not None]
    if decided:
        hits, chance = (
            sum(row.in_window is True for row in decided),
            sum(row.in_window_by_chance or 0 for row in decided),
        )
        found.append(
            f"Rate: the best is between {WINDOW[0]:g} and {WINDOW[1]:g} of the limit in {hits} of {len(decided)} "
            f"(a rate drawn from those tried: {chance:.1f}); no rate tried lay there in {len(told) - len(decided)}."
        )
    near = [row for row in told if row.nearest_to_a_quarter is not None and not _was_seen(row)]
    if near:
        slow = [ran for row in near for ran in row.runs if (ran.over_limit or math.inf) <= QUARTER]
        found.append(
            f"Second rule, on pairs that it was not made from: the best is the one nearest to {QUARTER:g} of the limit in "
            f"{sum(row.best == row.nearest_to_a_quarter for row in near)} of {len(near)}; "
            f"{sum(ran.collapsed for ran in slow)} of {len(slow)} runs at or below it collapsed."
        )
    below = sum(row.tried_below for row in rows)
    if below:
        fell = sum(len(row.collapses_below) for row in rows)
        above = [
            ran.collapsed for row in rows for ran in row.runs if ran.over_limit is not None and ran.over_limit >= SAFE
        ]
        found.append(
            f"Collapse: {fell} of {below} runs below {SAFE:g} of the limit collapsed, {sum(above)} of {len(above)} above it."
        )
    return found


def _was_seen(row: Cell) -> bool:
    return not row.prediction.kind and (row.task, row.prediction.batch, row.prediction.seed) in _SEEN


def _named(p: PredictedRate) -> str:
    return f"{p.kind + ', batch' if p.kind else 'Batch'} {p.batch}, seed {p.seed}"


def _where(row: Cell) -> str:
    over = next(ran.over_limit for ran in row.runs if ran.rate == row.best)
    verdict = {
        True: "as predicted",
        False: "not as predicted",
        None: "and none of those tried lies where it was predicted",
    }
    return f"{over or 0:.2f} of it, {verdict[row.in_window]} (ahead of the next by {row.margin or 0:.3f})"


def _range(ends: Sequence[Figure], unit: float = 1.0, form: str = ".1e") -> str:
    low, high = ((None if end is None else end * unit) for end in ends)
    return f"from {low or 0:{form}} up" if high is None else f"{low or 0:{form}} to {high:{form}}"


def _noise_scales(rows: Sequence[Cell]) -> list[str]:
    """Of the batches of a seed."""
    found, predicted = [], [row.prediction for row in rows]
    for seed in dict.fromkeys(p.seed for p in predicted):
        mine = sorted((p for p in predicted if p.seed == seed), key=lambda p: p.batch)
        scales = [p.noise_scale for p in mine if p.noise_scale]
        if len(scales) > 1 and len(scales) == len(mine):
            ratio = max(scales) / min(scales)
            told = ", ".join(
                f"{scale:.0f} ({_range(p.noise_scale_interval, form='.0f')}) at {p.batch}"
                for p, scale in zip(mine, scales, strict=True)
            )
            found.append(
                f"Noise scale, seed {seed}: {told} problems a step; {ratio:.1f} between them, "
                f"{'as' if ratio <= WITHIN else 'not as'} predicted (at most {WITHIN:g})."
            )
    return found


def _noised(rows: Sequence[Cell]) -> list[str]:
    """Noise where half of the rewards are by coin, over that of the run with all of them right."""
    right = {(row.task, p.batch, p.seed): p.noise_scale for row in rows for p in [row.prediction] if not p.kind}
    found = []
    for row in rows:
        p = row.prediction
        usual = right.get((row.task, p.batch, p.seed))
        if p.kind == NOISED and usual and p.noise_scale:
            ratio = p.noise_scale / usual
            found.append(
                f"Noise with half of the rewards by coin, batch {p.batch}, seed {p.seed}: {ratio:.1f} times that with all of them "
                f"right, {'as' if ratio >= WITHIN else 'not as'} predicted (at least {WITHIN:g})."
            )
    return found
