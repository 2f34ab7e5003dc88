"""What makes training straight: RL against SFT, and noise (paper, Fig. 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup

from driftline.report import charts
from driftline.report.page import section, table

if TYPE_CHECKING:
    from driftline.studies.noise import NoiseRecord
    from driftline.studies.rl_vs_sft import RlVsSftRecord


def rl_vs_sft(r: RlVsSftRecord) -> list[Markup]:
    traces = []
    for kind, colour in (("rl", charts.RUN), ("sft", charts.FORECAST)):
        mine = [row for row in r["rows"] if row["kind"] == kind]
        x = [row["r2"] for row in mine]
        y = [row["cosine"] for row in mine]
        named = [f"seed {row['seed']}, {row['cut']}" for row in mine]
        null_x, null_y = [row["null_r2"] for row in mine], [row["null_cosine"] for row in mine]
        run, walk = {"color": colour, "size": 10}, {"color": colour, "symbol": "x"}
        traces.append(charts.scatter(x, y, kind.upper(), "markers", text=named, marker=run))
        traces.append(charts.scatter(null_x, null_y, f"{kind.upper()}, chance", "markers", marker=walk))
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
            charts.fragment(traces, "rl-vs-sft", "median R²", "cosine of separated increments"),
        ),
        section(
            "Every run", "Skill is that of a damped line on the last quarter of the checkpoints.", table(head, rows)
        ),
    ]


def noise(r: NoiseRecord) -> list[Markup]:
    levels = list(dict.fromkeys(row["level"] for row in r["rows"]))
    traces = []
    for key, label, colour in (
        ("r2_median", "median R²", charts.RUN),
        ("r2_mean", "mean R²", charts.PALETTE[6]),
        ("null_median", "median R² of chance", charts.CHANCE),
        ("cosine", "cosine of separated increments", charts.FORECAST),
    ):
        x, y = [row["level"] for row in r["rows"]], [row[key] for row in r["rows"]]
        traces.append(charts.scatter(x, y, label, "markers", marker={"color": colour, "size": 8}))
    ordered = {"type": "category", "categoryorder": "array", "categoryarray": levels}
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
            charts.fragment(traces, "noise", "signal over noise", "R², cosine", xaxis=ordered),
            table(head, rows),
        )
    ]
