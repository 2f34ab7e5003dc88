"""Re-grounding against standard RL (paper, Fig. 6 and Table 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup

from driftline.report import charts
from driftline.report.page import section, table

if TYPE_CHECKING:
    from driftline.studies.curves import MedianCurve
    from driftline.studies.speedup import SpeedupRecord


def speedup(r: SpeedupRecord) -> list[Markup]:
    rates = sorted({curve["rate"] for curve in r["curves"]})
    schedules = list(dict.fromkeys(curve["schedule"] for curve in r["curves"]))
    drawn = []
    for rate in rates:
        traces = []
        for curve in (curve for curve in r["curves"] if curve["rate"] == rate):
            colour = charts.PALETTE[schedules.index(curve["schedule"]) % len(charts.PALETTE)]
            traces += _band(curve, curve["schedule"], colour)
        drawn.append(
            section(
                f"Accuracy at learning rate {rate:g}",
                "Held-out accuracy, sampled, against RL steps: median over seeds, and their range. A schedule is worth having "
                "where its line lies above standard RL's.",
                charts.fragment(traces, f"rate-{rate:g}", "RL steps", "accuracy"),
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
            f"{row['threshold']:g}",
            row["schedule"],
            f"{row['rate']:g}",
            _steps(row["steps"]),
            ", ".join(_steps(steps) for steps in row["steps_by_seed"]),
            row["speedup_same_rate"],
            row["best"],
            row["final"],
            row["rolled_back"],
        )
        for row in r["rows"]
    ]
    envelope = []
    for curve in r["best_curves"]:
        colour = charts.PALETTE[schedules.index(curve["schedule"]) % len(charts.PALETTE)]
        rates_at = [f"learning rate {rate:g}" for rate in curve["rates"]]
        line = {"color": colour}
        envelope.append(
            charts.scatter(curve["steps"], curve["accuracy"], curve["schedule"], "lines", text=rates_at, line=line)
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
                [
                    "accuracy",
                    "schedule",
                    "rate",
                    "steps",
                    "by seed",
                    "speed-up, same rate",
                    "best",
                    "at the end",
                    "rolled back",
                ],
                rows,
            ),
        ),
    ]


def _steps(steps: float | None) -> str:
    return "never" if steps is None else f"{steps:.0f}"


def _band(curve: MedianCurve, name: str, colour: str) -> list[charts.Trace]:
    """A line with the range around it."""
    steps, line = curve["steps"], {"color": colour}
    return [
        {
            "type": "scatter",
            "x": [*steps, *reversed(steps)],
            "y": [*curve["high"], *reversed(curve["low"])],
            "fill": "toself",
            "mode": "none",
            "fillcolor": colour,
            "opacity": 0.15,
            "legendgroup": name,
            "showlegend": False,
            "hoverinfo": "skip",
        },
        charts.scatter(steps, curve["accuracy"], name, "lines", line=line, legendgroup=name),
    ]
