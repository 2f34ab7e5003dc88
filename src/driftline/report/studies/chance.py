"""What the filter and the rank of a run are worth once chance is allowed for."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from driftline.report import charts
from driftline.report.page import section, table, text


def filter_bias(r: dict[str, Any]) -> list[str]:
    walks, runs = ([row for row in r["rows"] if row["kind"] == kind] for kind in ("walk", "run"))
    figure = go.Figure()
    for place, momentum in enumerate(sorted({row["momentum"] for row in walks})):
        mine = [row for row in walks if row["momentum"] == momentum and row["kept"]]
        colour, label = charts.PALETTE[place + 1], f"momentum {momentum:g}"
        x = [row["kept_share"] for row in mine]
        y = [row["kept"]["median"] for row in mine]
        named = [f"update size {row['size']:g}" for row in mine]
        figure.add_scatter(
            x=x, y=y, text=named, name=f"{label}: kept by the filter", mode="lines+markers", line={"color": colour}
        )
        figure.add_hline(
            y=mine[0]["exact"]["median"],
            line={"color": colour, "dash": "dot"},
            annotation_text=f"{label}, all, float32",
        )
    figure.update_xaxes(type="log")
    rows = [
        (
            f"{row['momentum']:g}", f"{row['size']:g}", row["changed_share"], row["kept_share"], row["exact"]["median"],
            _median(row["changed"]), _median(row["kept"]), row["kept"]["share_above_0.7"] if row["kept"] else None,
        )
        for row in walks
    ]  # fmt: skip
    drawn = [
        section(
            "What the filter keeps of walks that go nowhere",
            "Median R² of driftless walks that pass the filter, against the share of them that does. Dotted: all walks, unrounded.",
            charts.fragment(figure, "filter", "share kept (log)", "median R²"),
            table(
                ["momentum", "update size", "changed", "kept", "R², float32", "R², changed", "R², kept", "above 0.7"],
                rows,
            ),
        )
    ]
    if runs:
        head = ["run", "changed", "R²", "chance", "kept", "R², kept", "chance"]
        found = [
            (
                row["run"], row["changed_share"], row["changed"]["median"], row["null_changed"]["median"],
                row["kept_share"], row["kept"]["median"], row["null_kept"]["median"],
            )
            for row in runs
        ]  # fmt: skip
        aid = "Median R² with and without the filter, each beside walks matched to the run."
        drawn.append(section("Runs", aid, table(head, found)))
    return drawn


def _median(figures: dict[str, float] | None) -> float | None:
    return figures["median"] if figures else None


def rank(r: dict[str, Any]) -> list[str]:
    figure = go.Figure()
    for place, run in enumerate(dict.fromkeys(row["run"] for row in r["rows"])):
        mine = [row for row in r["rows"] if row["run"] == run]
        colour, label = charts.PALETTE[1 + place % (len(charts.PALETTE) - 1)], text(run)
        x = [row["rank"] for row in mine]
        figure.add_scatter(
            x=x, y=[row["skill"] for row in mine], name=label, mode="lines+markers", line={"color": colour}
        )
        figure.add_scatter(
            x=x, y=[row["null_skill"] for row in mine], name=f"{label}, driftless walk", mode="lines",
            line={"color": colour, "dash": "dash"},
        )  # fmt: skip
    head = [
        "run",
        "rank",
        "energy",
        "chance",
        "R² of the coefficient",
        "chance",
        "skill",
        "chance",
        "unchanged in bf16",
    ]
    keys = (
        "energy",
        "null_energy",
        "coefficient_r2",
        "null_coefficient_r2",
        "skill",
        "null_skill",
        "unchanged_in_bf16",
    )
    rows = [(row["run"], row["rank"], *(row[key] for key in keys)) for row in r["rows"]]
    return [
        section(
            "Skill by rank",
            "Skill of rank-r forecasts of the last quarter of the run (1 perfect, 0 no better than holding), beside a driftless walk's.",
            charts.fragment(figure, "rank", "rank", "skill"),
        ),
        section(
            "Energy and linearity",
            "Share of the update in its r largest directions, and R² on the step of the r-th coefficient. A walk has .81 and .96.",
            table(head, rows),
        ),
    ]
