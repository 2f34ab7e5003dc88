"""The page of `driftline compare`: a forest plot of R², each row's own null drawn beside its bar."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from markupsafe import Markup

from driftline.files.record import Figure
from driftline.linearity.comparison import ComparedResult, Comparison
from driftline.report import charts, page
from driftline.report.page import Steps, made, number, section, table


def write(folder: Path, record: Comparison, *, command: str, next_steps: Steps = ()) -> None:
    """`report.html` from the record of `comparison.json`; `command` made it, `next_steps` may follow."""
    rows = record.rows
    body = [
        page.verdict(_sentence(rows), any(row.linear for row in rows)),
        page.next_steps(next_steps),
        _forest(rows),
        _drift(rows),
        made(command, [("driftline", record.driftline)]),
    ]
    page.write(folder, "driftline compare", body)


def _sentence(rows: list[ComparedResult]) -> str:
    drifting = sum(row.linear for row in rows)
    medians, chance = _range(row.r2.median for row in rows), _range(row.null_r2.median for row in rows)
    said = f"{drifting} of {len(rows)} show drift above chance" if drifting else "None of these is told from chance"
    return f"{said}: R² medians are {medians}, where driftless walks give {chance}."


def _range(values: Iterable[Figure]) -> str:
    known = sorted(value for value in values if value is not None)
    return " to ".join(dict.fromkeys(number(value) for value in (known[:1] + known[-1:])))


def _forest(rows: list[ComparedResult]) -> Markup:
    names = [row.folder for row in rows]
    figures = [("r2", "this result", charts.RUN, "square"), ("null_r2", "its null", charts.CHANCE, "diamond-open")]
    cells = [
        (
            row.folder,
            row.kind,
            row.checkpoints,
            row.r2.median,
            row.null_r2.median,
            row.r2.share_above_07,
            row.null_r2.share_above_07,
            row.filter,
        )
        for row in rows
    ]
    head = ["result", "of", "checkpoints", "R² median", "chance", "above 0.7", "chance", "filter"]
    return section(
        "How straight each is, and how straight chance would be",
        "Median R² with quartiles; below it that of a driftless walk matched to that run. Dashed: the paper's line at 0.7, which chance crosses too.",
        charts.forest(rows, names, figures, "forest"),
        table(head, cells),
    )


def _drift(rows: list[ComparedResult]) -> Markup:
    cells = [
        (
            row.folder,
            "yes" if row.linear else "no",
            row.increment_cosine,
            row.null_increment_cosine,
            row.growth_exponent,
            row.null_growth_exponent,
            number(row.persistence.length, 0),
            row.skill["damped"],
            row.null_skill["damped"],
        )
        for row in rows
    ]
    head = ["result", "drift", "cosine", "chance", "growth", "chance", "persistence, steps", "skill, damped", "chance"]
    aid = "What tells drift from chance: cosine of separated increments, growth exponent of the update, held-out skill."
    return section("Does it mean anything?", aid, table(head, cells))
