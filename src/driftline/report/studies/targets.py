"""From weights to outputs, and how far to go (paper, Fig. 4, Fig. 5, Table 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup

from driftline.report import charts, maps, page
from driftline.report.page import number, section, table

if TYPE_CHECKING:
    from driftline.studies.output_change import OutputChangeRecord
    from driftline.studies.output_targets import OutputTargetsRecord
    from driftline.studies.weight_targets import WeightTargetsRecord


def output_change(r: OutputChangeRecord) -> list[Markup]:
    last = max(row["step"] for row in r["rows"])
    run = r["rows"][0]["run"]
    mine = [row for row in r["rows"] if (row["run"], row["step"]) == (run, last)]
    layers = [row["layer"] for row in mine]
    traces = [
        charts.bars(layers, [row[term] for row in mine], label, colour)
        for term, label, colour in (
            ("input", "W₀Δx", charts.RUN),
            ("weight", "ΔWx₀", charts.CHANCE),
            ("second_order", "ΔWΔx", charts.FORECAST),
        )
    ]
    slanted = {"tickangle": -60}
    head = ["run", "step", "layer", "W₀Δx", "ΔWx₀", "ΔWΔx", "unexplained"]
    keys = ("input", "weight", "second_order", "unexplained")
    rows = [(row["run"], row["step"], row["layer"], *(row[key] for key in keys)) for row in r["rows"]]
    return [
        section(
            f"Where the change of each layer's output comes from, {run}, to step {last}",
            "Deviation of each term over that of the whole change; terms may cancel, so they need not add up to 1.",
            charts.fragment(
                traces, "output-change", "", "deviation / that of the change", xaxis=slanted, barmode="group"
            ),
            table(head, rows),
        )
    ]


def weight_targets(r: WeightTargetsRecord) -> list[Markup]:
    traces = []
    for place, row in enumerate(r["rows"]):
        x = [0.0, *(horizon / row["late"] for horizon in row["horizons"])]
        name = f"{row['run']}, late {row['late']}"
        line = {"color": charts.PALETTE[place % len(charts.PALETTE)]}
        traces.append(charts.scatter(x, [row["held"], *row["scores"]], name, "lines+markers", line=line))
    head = [
        "run",
        "late",
        "accuracy there",
        "best accuracy",
        "best horizon",
        "back-tests, two-point",
        "back-tests, best method",
        "persistence",
        "skill in weights",
        "skill in log-probs",
    ]
    keys = (
        "late",
        "held",
        "best_score",
        "best_horizon",
        "recommended_horizon",
        "recommended_by_best_method",
        "persistence",
        "weight_skill",
        "logprob_skill",
    )
    return [
        section(
            "Accuracy by target",
            "Held-out accuracy, sampled, of two-point forecasts, against how far beyond the late checkpoint they go.",
            charts.fragment(traces, "targets", "horizon / late step", "accuracy"),
        ),
        section(
            "The best target, and what was recommended before any evaluation",
            "Horizons in steps beyond the late checkpoint; skill of two-point from half way to it.",
            table(head, [(row["run"], *(row[key] for key in keys)) for row in r["rows"]]),
        ),
        _beside_the_late_checkpoint(r),
    ]


def _beside_the_late_checkpoint(r: WeightTargetsRecord) -> Markup:
    head = [
        "run",
        "late",
        "accuracy there",
        "as sure",
        "forecast",
        "over as sure",
        "95 %",
        "greedy there",
        "greedy",
        "verdict",
    ]
    rows = []
    for row in r.rows:
        if not (control := row.control):
            continue
        beyond, greedy = control.beyond_sharpening, control.greedy or {}
        rows.append(
            (
                row.run,
                row.late,
                control.late.avg_at_k,
                control.late_matched.avg_at_k,
                control.late.avg_at_k + control.gain.mean,
                beyond.mean,
                f"{number(beyond.interval[0], 2)} to {number(beyond.interval[1], 2)}",
                greedy.get("late"),
                greedy.get("forecast"),
                control.verdict,
            )
        )
    if not rows:
        return page.NOTHING
    return section(
        "Better, or only surer?",
        "The best forecast on other problems, beside the late checkpoint, and that at the temperature at which it is as sure.",
        table(head, rows),
    )


def output_targets(r: OutputTargetsRecord) -> list[Markup]:
    traces = []
    names = [f"{row['run']}, alpha {row['alpha']:g}" for row in r["rows"]]
    for key, label, colour in (
        ("over_late", "over the late checkpoint", charts.RUN),
        ("over_matched", "over it at the matched temperature", charts.CHANCE),
        ("over_best", "over the best checkpoint", charts.FORECAST),
    ):
        middle = [row[key]["mean"] for row in r["rows"]]
        above = [row[key]["interval"][1] - m for row, m in zip(r["rows"], middle, strict=True)]
        below = [m - row[key]["interval"][0] for row, m in zip(r["rows"], middle, strict=True)]
        marker = {"color": colour, "size": 8}
        traces.append(
            charts.scatter(middle, names, label, "markers", marker=marker, error_x=charts.spread(above, below))
        )
    head = ["run", "alpha", "forecast", "late", "late, as sure", "best", "greedy: forecast", "late", "verdict"]
    rows = [
        (
            row["run"],
            f"{row['alpha']:g}",
            row["forecast_score"],
            row["late_score"],
            row["matched_score"],
            row["best_score"],
            row["greedy"]["forecast"] if row["greedy"] else None,
            row["greedy"]["late"] if row["greedy"] else None,
            row["verdict"],
        )
        for row in r["rows"]
    ]
    height, down = max(400, 40 * len(names) + 120), maps.categories(downward=True)
    return [
        section(
            "What decoding beyond the late checkpoint gains",
            "Paired differences of avg@k with 95 % intervals over problems.",
            charts.fragment(traces, "output-targets", "difference in accuracy", "", height=height, yaxis=down),
            table(head, rows),
        )
    ]
