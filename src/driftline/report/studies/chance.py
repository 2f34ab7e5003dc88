"""What the filter and the rank of a run are worth once chance is allowed for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup

from driftline.report import charts
from driftline.report.page import section, table

if TYPE_CHECKING:
    from driftline.studies.filter_bias import FilterBiasRecord
    from driftline.studies.rank import RankRecord


def filter_bias(r: FilterBiasRecord) -> list[Markup]:
    walks, runs = ([row for row in r["rows"] if row["kind"] == kind] for kind in ("walk", "run"))
    traces, marks = [], []
    for place, momentum in enumerate(sorted({row["momentum"] for row in walks})):
        mine = [row for row in walks if row["momentum"] == momentum and row["kept"]]
        colour, label = charts.PALETTE[place + 1], f"momentum {momentum:g}"
        x = [row["kept_share"] for row in mine]
        y = [row["kept"]["median"] for row in mine]
        named = [f"update size {row['size']:g}" for row in mine]
        kept, line = f"{label}: kept by the filter", {"color": colour}
        traces.append(charts.scatter(x, y, kept, "lines+markers", text=named, line=line))
        marks.append(charts.horizontal(mine[0]["exact"]["median"], f"{label}, all, float32", colour=colour))
    rows = [
        (
            f"{row['momentum']:g}",
            f"{row['size']:g}",
            row["changed_share"],
            row["kept_share"],
            row["exact"]["median"],
            _median(row["changed"]),
            _median(row["kept"]),
            row["kept"]["share_above_0.7"] if row["kept"] else None,
        )
        for row in walks
    ]
    drawn = [
        section(
            "What the filter keeps of walks that go nowhere",
            "Median R² of driftless walks that pass the filter, against the share of them that does. Dotted: all walks, unrounded.",
            charts.fragment(traces, "filter", "share kept (log)", "median R²", marks=marks, xaxis={"type": "log"}),
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
                row["run"],
                row["changed_share"],
                row["changed"]["median"],
                row["null_changed"]["median"],
                row["kept_share"],
                row["kept"]["median"],
                row["null_kept"]["median"],
            )
            for row in runs
        ]
        aid = "Median R² with and without the filter, each beside walks matched to the run."
        drawn.append(section("Runs", aid, table(head, found)))
    return drawn


def _median(figures: dict[str, float] | None) -> float | None:
    return figures["median"] if figures else None


def rank(r: RankRecord) -> list[Markup]:
    traces = []
    for place, run in enumerate(dict.fromkeys(row["run"] for row in r["rows"])):
        mine = [row for row in r["rows"] if row["run"] == run]
        colour, label = charts.PALETTE[1 + place % (len(charts.PALETTE) - 1)], run
        x = [row["rank"] for row in mine]
        traces.append(charts.scatter(x, [row["skill"] for row in mine], label, "lines+markers", line={"color": colour}))
        walk, dashed = [row["null_skill"] for row in mine], {"color": colour, "dash": "dash"}
        traces.append(charts.scatter(x, walk, f"{label}, driftless walk", "lines", line=dashed))
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
            charts.fragment(traces, "rank", "rank", "skill"),
        ),
        section(
            "Energy and linearity",
            "Share of the update in its r largest directions, and R² on the step of the r-th coefficient. A walk has .81 and .96.",
            table(head, rows),
        ),
    ]
