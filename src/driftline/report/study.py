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


_DRAWN = {"speedup": _speedup}
