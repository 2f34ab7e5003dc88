"""Several analyses side by side: R² and drift of each beside its own null."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from driftline._version import __version__
from driftline.errors import InputError
from driftline.files.record import Figure, Record
from driftline.linearity.summary import R2, NullR2, PersistenceFigures, read_summary

MARK = "comparison.json"


class ComparedResult(Record):
    """One result, in the figures that are compared."""

    folder: str
    kind: str
    run: str
    checkpoints: int
    first: int
    last: int
    filter: str
    r2: R2
    null_r2: NullR2
    increment_cosine: Figure
    null_increment_cosine: Figure
    growth_exponent: Figure
    null_growth_exponent: Figure
    persistence: PersistenceFigures
    skill: dict[str, Figure]
    null_skill: dict[str, Figure]
    linear: bool
    sentence: str


class Comparison(Record):
    """What `comparison.json` holds."""

    driftline: str
    rows: list[ComparedResult]


def compare(folders: Sequence[Path]) -> Comparison:
    """A row for each result of analyze, logprobs or activations.

    Raises:
        InputError: fewer than two, the same twice, or one that is no such result.
    """
    if len(folders) < 2:
        raise InputError("nothing to compare: name two results of analyze, logprobs or activations, or more")
    names = [str(folder) for folder in folders]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{twice} is named twice: name each result once")
    return Comparison(driftline=__version__, rows=[_row(folder) for folder in folders])


def _row(folder: Path) -> ComparedResult:
    summary = read_summary(folder)
    drift = summary.drift
    return ComparedResult(
        folder=str(folder),
        kind=summary.kind,
        run=summary.run,
        checkpoints=len(summary.steps),
        first=summary.steps[0],
        last=summary.steps[-1],
        filter=summary.filter,
        r2=summary.r2,
        null_r2=summary.null_r2,
        increment_cosine=drift.increment_cosine,
        null_increment_cosine=drift.null.increment_cosine,
        growth_exponent=drift.growth_exponent,
        null_growth_exponent=drift.null.growth_exponent,
        persistence=summary.persistence,
        skill=summary.skill.methods,
        null_skill=summary.skill.null,
        linear=summary.verdict.linear,
        sentence=summary.verdict.sentence,
    )
