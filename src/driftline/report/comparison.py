"""The page of `driftline compare`: a forest plot of R², each row's own null drawn beside its bar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from driftline.report import charts
from driftline.report.page import number, page, section, table, text


def write(folder: Path, record: dict[str, Any], command: str) -> None:
    """`report.html` from the record of `comparison.json`."""
    rows = record["rows"]
    drifting = sum(row["linear"] for row in rows)
    verdict = (
        f"{drifting} of {len(rows)} show drift above chance." if drifting else "None of these is told from chance."
    )
    body = [
        f'<p class="verdict {"yes" if drifting else "no"}">{text(verdict)}</p>',
        _forest(rows),
        _drift(rows),
        section("How this page was made", "", f"<pre>{text(command)}</pre>"),
    ]
    (folder / "report.html").write_text(page("driftline compare", "".join(body)), encoding="utf-8")


def _forest(rows: list[dict[str, Any]]) -> str:
    figure = go.Figure()
    names = [text(row["folder"]) for row in rows]
    for key, label, colour, symbol, offset in (("r2", "this result", charts.RUN, "square", -0.12), ("null_r2", "its null", charts.CHANCE, "diamond-open", 0.12)):  # fmt: skip
        middle = [row[key]["median"] for row in rows]
        figure.add_scatter(
            x=middle, y=[place + offset for place in range(len(rows))], mode="markers", name=label, marker={"color": colour, "symbol": symbol, "size": 10},
            error_x={
                "type": "data", "symmetric": False, "thickness": 2,
                "array": [row[key]["q75"] - m for row, m in zip(rows, middle, strict=True)],
                "arrayminus": [m - row[key]["q25"] for row, m in zip(rows, middle, strict=True)],
            },
        )  # fmt: skip
    figure.add_vline(x=0.7, line={"color": "#808080", "dash": "dash"})
    figure.update_yaxes(tickvals=list(range(len(rows))), ticktext=names, autorange="reversed", automargin=True)
    figure.update_xaxes(range=[0, 1.02])
    cells = [
        (
            row["folder"], row["kind"], row["checkpoints"], row["r2"]["median"], row["null_r2"]["median"],
            row["r2"]["share_above_0.7"], row["null_r2"]["share_above_0.7"], row["filter"],
        )
        for row in rows
    ]  # fmt: skip
    head = ["result", "of", "checkpoints", "R² median", "chance", "above 0.7", "chance", "filter"]
    return section(
        "How straight each is, and how straight chance would be",
        "Median R² with quartiles; below it that of a driftless walk matched to that run. Dashed: the paper's line at 0.7, which chance crosses too.",
        charts.fragment(figure, "forest", "R² of a straight line", ""),
        table(head, cells),
    )


def _drift(rows: list[dict[str, Any]]) -> str:
    cells = [
        (
            row["folder"], "yes" if row["linear"] else "no", row["increment_cosine"], row["null_increment_cosine"],
            row["growth_exponent"], row["null_growth_exponent"], number(row["persistence"]["length"], 0),
            row["skill"]["damped"], row["null_skill"]["damped"],
        )
        for row in rows
    ]  # fmt: skip
    head = ["result", "drift", "cosine", "chance", "growth", "chance", "persistence, steps", "skill, damped", "chance"]
    aid = "What tells drift from chance: cosine of separated increments, growth exponent of the update, held-out skill."
    return section("Does it mean anything?", aid, table(head, cells))
