"""The page of `driftline study`: what was found, then the figure as the paper draws it, and the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from driftline.report import charts
from driftline.report.page import page, section, table, text

PALETTE = ["#808080", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#b2a000"]


def write(folder: Path, record: dict[str, Any], command: str) -> None:
    """`report.html` from the record of `study.json`."""
    findings = "".join(f'<p class="verdict">{text(finding)}</p>' for finding in record["findings"])
    quick = '<p class="aid">A smoke-sized version: it shows that the study runs, and nothing else.</p>'
    body = [findings, quick if record["quick"] else "", *_DRAWN[record["study"]](record), _how(record, command)]
    (folder / "report.html").write_text(page(f"driftline study · {record['study']}", "".join(body)), encoding="utf-8")


def _speedup(r: dict[str, Any]) -> list[str]:
    rates = sorted({curve["rate"] for curve in r["curves"]})
    schedules = list(dict.fromkeys(curve["schedule"] for curve in r["curves"]))
    drawn = []
    for rate in rates:
        figure = go.Figure()
        for curve in (curve for curve in r["curves"] if curve["rate"] == rate):
            colour = PALETTE[schedules.index(curve["schedule"]) % len(PALETTE)]
            _band(figure, curve, text(curve["schedule"]), colour)
        drawn.append(
            section(
                f"Accuracy at learning rate {rate:g}",
                "Held-out accuracy, sampled, against RL steps: median over seeds, and their range. A schedule is worth having "
                "where its line lies above standard RL's.",
                charts.fragment(figure, f"rate-{rate:g}", "RL steps", "accuracy"),
            )
        )
    best = [
        (
            f"{b['threshold']:g}",
            b["schedule"],
            f"{b['rate']:g}",
            _steps(b["steps"]),
            b["speedup_steps"],
            b["speedup_seconds"],
        )
        for b in r["best"]
    ]
    rows = [
        (
            f"{row['threshold']:g}", row["schedule"], f"{row['rate']:g}", _steps(row["steps"]),
            ", ".join(_steps(steps) for steps in row["steps_by_seed"]), row["speedup_same_rate"], row["best"], row["final"],
            row["rolled_back"],
        )
        for row in r["rows"]
    ]  # fmt: skip
    envelope = go.Figure()
    for curve in r["best_curves"]:
        colour = PALETTE[schedules.index(curve["schedule"]) % len(PALETTE)]
        label = text(curve["schedule"])
        rates_at = [f"learning rate {rate:g}" for rate in curve["rates"]]
        envelope.add_scatter(
            x=curve["steps"], y=curve["accuracy"], text=rates_at, name=label, mode="lines", line={"color": colour}
        )
    return [
        section(
            "The best of every learning rate",
            "Median accuracy over seeds at the learning rate that is best at that step (hover for it): what each schedule "
            "can do when it is tuned.",
            charts.fragment(envelope, "best", "RL steps", "accuracy"),
        ),
        section(
            "Each at its best learning rate",
            "RL steps to each accuracy (median over seeds), at the learning rate that takes that schedule there soonest; above 1 "
            "is faster than standard RL at its own best rate.",
            table(["accuracy", "schedule", "rate", "steps", "speed-up in steps", "in seconds"], best),
        ),
        *drawn,
        section(
            "Every schedule and learning rate",
            "The paper compares at the same rate. 0 means that standard RL got there and the schedule did not.",
            table(
                ["accuracy", "schedule", "rate", "steps", "by seed", "speed-up, same rate", "best", "at the end", "rolled back"],
                rows,
            ),
        ),
    ]  # fmt: skip


def _steps(steps: float | None) -> str:
    return "never" if steps is None else f"{steps:.0f}"


def _band(figure: go.Figure, curve: dict[str, Any], name: str, colour: str) -> None:
    """A line with the range around it."""
    steps = curve["steps"]
    figure.add_scatter(
        x=[*steps, *reversed(steps)], y=[*curve["high"], *reversed(curve["low"])], fill="toself", mode="none",
        fillcolor=colour, opacity=0.15, legendgroup=name, showlegend=False, hoverinfo="skip",
    )  # fmt: skip
    figure.add_scatter(x=steps, y=curve["accuracy"], name=name, mode="lines", line={"color": colour}, legendgroup=name)


def _how(r: dict[str, Any], command: str) -> str:
    took = f"{r['seconds']:.0f} s, runs that were there not counted"
    rows = [
        ("driftline", r["driftline"]),
        ("runs given", ", ".join(r["runs"]) or "trained for this study"),
        ("took", took),
    ]
    return section("How this page was made", "", f"<pre>{text(command)}</pre>" + table(["", ""], rows))


def _filter_bias(r: dict[str, Any]) -> list[str]:
    walks, runs = ([row for row in r["rows"] if row["kind"] == kind] for kind in ("walk", "run"))
    figure = go.Figure()
    for place, momentum in enumerate(sorted({row["momentum"] for row in walks})):
        mine = [row for row in walks if row["momentum"] == momentum and row["kept"]]
        colour, label = PALETTE[place + 1], f"momentum {momentum:g}"
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


def _rank(r: dict[str, Any]) -> list[str]:
    figure = go.Figure()
    for place, run in enumerate(dict.fromkeys(row["run"] for row in r["rows"])):
        mine = [row for row in r["rows"] if row["run"] == run]
        colour, label = PALETTE[1 + place % (len(PALETTE) - 1)], text(run)
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


def _rl_vs_sft(r: dict[str, Any]) -> list[str]:
    figure = go.Figure()
    for kind, colour in (("rl", charts.RUN), ("sft", charts.FORECAST)):
        mine = [row for row in r["rows"] if row["kind"] == kind]
        x = [row["r2"] for row in mine]
        y = [row["cosine"] for row in mine]
        named = [f"seed {row['seed']}, {row['cut']}" for row in mine]
        figure.add_scatter(
            x=x, y=y, text=named, name=kind.upper(), mode="markers", marker={"color": colour, "size": 10}
        )
        null_x, null_y = [row["null_r2"] for row in mine], [row["null_cosine"] for row in mine]
        figure.add_scatter(
            x=null_x, y=null_y, name=f"{kind.upper()}, chance", mode="markers", marker={"color": colour, "symbol": "x"}
        )
    head = [
        "",
        "seed",
        "over",
        "to step",
        "accuracy",
        "R²",
        "chance",
        "cosine",
        "chance",
        "growth",
        "chance",
        "skill",
        "chance",
        "drift",
    ]
    keys = ("accuracy", "r2", "null_r2", "cosine", "null_cosine", "growth", "null_growth", "skill", "null_skill")
    rows = [
        (
            row["kind"].upper(),
            str(row["seed"]),
            row["cut"],
            row["last"],
            *(row[key] for key in keys),
            "yes" if row["linear"] else "no",
        )
        for row in r["rows"]
    ]
    return [
        section(
            "R² and cosine, RL and SFT",
            "Median R² of the weights against the cosine of separated increments, each run beside its driftless walk (x).",
            charts.fragment(figure, "rl-vs-sft", "median R²", "cosine of separated increments"),
        ),
        section(
            "Every run", "Skill is that of a damped line on the last quarter of the checkpoints.", table(head, rows)
        ),
    ]


def _weight_targets(r: dict[str, Any]) -> list[str]:
    figure = go.Figure()
    for place, row in enumerate(r["rows"]):
        x = [0.0, *(horizon / row["late"] for horizon in row["horizons"])]
        name = f"{text(row['run'])}, late {row['late']}"
        colour = PALETTE[place % len(PALETTE)]
        figure.add_scatter(
            x=x, y=[row["held"], *row["scores"]], name=name, mode="lines+markers", line={"color": colour}
        )
    head = [
        "run",
        "late",
        "accuracy there",
        "best accuracy",
        "best horizon",
        "back-tests, two-point",
        "back-tests, best method",
        "persistence",
    ]
    keys = (
        "late",
        "held",
        "best_score",
        "best_horizon",
        "recommended_horizon",
        "recommended_by_best_method",
        "persistence",
    )
    return [
        section(
            "Accuracy by target",
            "Held-out accuracy, sampled, of two-point forecasts, against how far beyond the late checkpoint they go.",
            charts.fragment(figure, "targets", "horizon / late step", "accuracy"),
        ),
        section(
            "The best target, and what was recommended before any evaluation",
            "Horizons in steps beyond the late checkpoint.",
            table(head, [(row["run"], *(row[key] for key in keys)) for row in r["rows"]]),
        ),
    ]


def _forest(rows: list[dict[str, Any]], names: list[str], figures: list[tuple[str, str, str, str]], name: str) -> str:
    """Medians with quartiles of several figures, (key, label, colour, symbol) each, one row of the plot for each row."""
    figure = go.Figure()
    for place, (key, label, colour, symbol) in enumerate(figures):
        offset = 0.15 * (place - (len(figures) - 1) / 2)
        middle = [row[key]["median"] for row in rows]
        above = [row[key]["q75"] - m for row, m in zip(rows, middle, strict=True)]
        below = [m - row[key]["q25"] for row, m in zip(rows, middle, strict=True)]
        figure.add_scatter(
            x=middle, y=[i + offset for i in range(len(rows))], mode="markers", name=label,
            marker={"color": colour, "symbol": symbol, "size": 8},
            error_x={"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1},
        )  # fmt: skip
    figure.add_vline(x=0.7, line={"color": "#808080", "dash": "dash"})
    figure.update_yaxes(tickvals=list(range(len(rows))), ticktext=names, autorange="reversed", automargin=True)
    figure.update_xaxes(range=[0, 1.02])
    return charts.fragment(figure, name, "R² of a straight line", "", height=max(400, 26 * len(rows) + 120))


def _robustness(r: dict[str, Any]) -> list[str]:
    rows = r["rows"]
    names = [text(f"{row['group']}: {row['setting']} ({row['seed']})") for row in rows]
    figures = [
        ("weights", "weights", charts.RUN, "square"),
        ("null_weights", "their null", charts.CHANCE, "square-open"),
        ("logprobs", "log-probs", charts.FORECAST, "diamond"),
        ("null_logprobs", "their null", charts.CHANCE, "diamond-open"),
    ]
    head = ["group", "setting", "seed", "R² weights", "chance", "R² log-probs", "chance", "cosine", "skill", "drift"]
    cells = [
        (
            row["group"], row["setting"], str(row["seed"]), row["weights"]["median"], row["null_weights"]["median"],
            row["logprobs"]["median"], row["null_logprobs"]["median"], row["cosine"], row["skill"], "yes" if row["linear"] else "no",
        )
        for row in rows
    ]  # fmt: skip
    return [
        section(
            "R² in every setting, each beside its own null",
            "Medians with quartiles. Dashed: the paper's line at 0.7, which chance crosses too. In brackets: the seed.",
            _forest(rows, names, figures, "robustness"),
            table(head, cells),
        )
    ]


def _noise(r: dict[str, Any]) -> list[str]:
    levels = list(dict.fromkeys(row["level"] for row in r["rows"]))
    figure = go.Figure()
    for key, label, colour in (
        ("r2_median", "median R²", charts.RUN),
        ("r2_mean", "mean R²", PALETTE[6]),
        ("null_median", "median R² of chance", charts.CHANCE),
        ("cosine", "cosine of separated increments", charts.FORECAST),
    ):
        x, y = [row["level"] for row in r["rows"]], [row[key] for row in r["rows"]]
        figure.add_scatter(x=x, y=y, name=label, mode="markers", marker={"color": colour, "size": 8})
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=levels)
    head = ["level", "seed", "R² mean", "chance", "R² median", "chance", "cosine", "growth", "drift"]
    keys = ("r2_mean", "null_mean", "r2_median", "null_median", "cosine", "growth")
    rows = [
        (row["level"], str(row["seed"]), *(row[key] for key in keys), "yes" if row["linear"] else "no")
        for row in r["rows"]
    ]
    return [
        section(
            "R² by signal over noise",
            "SFT with random signs on the loss of every token; each dot is a run. R² that rises while the cosine falls is not drift.",
            charts.fragment(figure, "noise", "signal over noise", "R², cosine"),
            table(head, rows),
        )
    ]


def _output_change(r: dict[str, Any]) -> list[str]:
    last = max(row["step"] for row in r["rows"])
    run = r["rows"][0]["run"]
    mine = [row for row in r["rows"] if (row["run"], row["step"]) == (run, last)]
    figure = go.Figure()
    for term, label, colour in (
        ("input", "W₀Δx", charts.RUN),
        ("weight", "ΔWx₀", charts.CHANCE),
        ("second_order", "ΔWΔx", charts.FORECAST),
    ):
        x, y = [text(row["layer"]) for row in mine], [row[term] for row in mine]
        figure.add_bar(x=x, y=y, name=label, marker_color=colour)
    figure.update_xaxes(tickangle=-60, automargin=True)
    head = ["run", "step", "layer", "W₀Δx", "ΔWx₀", "ΔWΔx", "unexplained"]
    keys = ("input", "weight", "second_order", "unexplained")
    rows = [(row["run"], row["step"], row["layer"], *(row[key] for key in keys)) for row in r["rows"]]
    return [
        section(
            f"Where the change of each layer's output comes from, {run}, to step {last}",
            "Deviation of each term over that of the whole change; terms may cancel, so they need not add up to 1.",
            charts.fragment(figure, "output-change", "", "deviation / that of the change", barmode="group"),
            table(head, rows),
        )
    ]


def _output_targets(r: dict[str, Any]) -> list[str]:
    figure = go.Figure()
    names = [text(f"{row['run']}, alpha {row['alpha']:g}") for row in r["rows"]]
    for key, label, colour in (
        ("over_late", "over the late checkpoint", charts.RUN),
        ("over_matched", "over it at the matched temperature", charts.CHANCE),
        ("over_best", "over the best checkpoint", charts.FORECAST),
    ):
        middle = [row[key]["mean"] for row in r["rows"]]
        above = [row[key]["interval"][1] - m for row, m in zip(r["rows"], middle, strict=True)]
        below = [m - row[key]["interval"][0] for row, m in zip(r["rows"], middle, strict=True)]
        figure.add_scatter(
            x=middle, y=names, mode="markers", name=label, marker={"color": colour, "size": 8},
            error_x={"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1},
        )  # fmt: skip
    figure.update_yaxes(type="category", autorange="reversed", automargin=True)
    head = ["run", "alpha", "forecast", "late", "late, as sure", "best", "greedy: forecast", "late", "verdict"]
    rows = [
        (
            row["run"], f"{row['alpha']:g}", row["forecast_score"], row["late_score"], row["matched_score"], row["best_score"],
            row["greedy"]["forecast"] if row["greedy"] else None, row["greedy"]["late"] if row["greedy"] else None, row["verdict"],
        )
        for row in r["rows"]
    ]  # fmt: skip
    height = max(400, 40 * len(names) + 120)
    return [
        section(
            "What decoding beyond the late checkpoint gains",
            "Paired differences of avg@k with 95 % intervals over problems.",
            charts.fragment(figure, "output-targets", "difference in accuracy", "", height=height),
            table(head, rows),
        )
    ]


_DRAWN = {
    "robustness": _robustness,
    "rl-vs-sft": _rl_vs_sft,
    "noise": _noise,
    "output-change": _output_change,
    "weight-targets": _weight_targets,
    "output-targets": _output_targets,
    "speedup": _speedup,
    "filter-bias": _filter_bias,
    "rank": _rank,
}
