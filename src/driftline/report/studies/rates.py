"""Learning rates that were predicted, and what came of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup

from driftline.report import charts
from driftline.report.page import section, table

if TYPE_CHECKING:
    from driftline.studies.rates import RatesRecord

_WORDS = {True: "as predicted", False: "not as predicted", None: "does not tell"}


def rates(r: RatesRecord) -> list[Markup]:
    traces = []
    batches = sorted({row["prediction"]["batch"] for row in r["rows"]})
    for row in (row for row in r["rows"] if row["prediction"]["model"] == "plain"):
        p, ran = row["prediction"], [run for run in row["runs"] if run["over_limit"] is not None]
        named = [f"learning rate {run['rate']:g}{', collapsed' * run['collapsed']}" for run in ran]
        line = {"color": charts.PALETTE[batches.index(p["batch"]) % len(charts.PALETTE)]}
        x, y = [run["over_limit"] for run in ran], [run["mean_sampled"] for run in ran]
        label = f"{p.kind + ', ' if p.kind else ''}batch {p['batch']}, seed {p['seed']}"
        traces.append(charts.scatter(x, y, label, "lines+markers", text=named, line=line))
    predicted = [
        (
            p["model"],
            p.kind or "",
            p["batch"],
            p["seed"],
            None if p["factor"] is None else f"{p['factor'] * p['rate']:.1e}",
            p["noise_scale"],
            p["persistence"],
            "none" if row["best"] is None else f"{row['best']:g}",
            row["margin"],
            "none" if row["best_at_the_end"] is None else f"{row['best_at_the_end']:g}",
            _WORDS[row["in_window"]],
            ", ".join(f"{rate:g}" for rate in row["collapses_below"]) or "none",
            p["written"] or "not before the runs",
        )
        for row in r["rows"]
        for p in [row["prediction"]]
    ]
    ran = [
        (
            row["prediction"].kind or "",
            row["prediction"]["batch"],
            row["prediction"]["seed"],
            f"{run['rate']:g}",
            run["over_limit"],
            run["mean_sampled"],
            run["sampled"][-1],
            run["greedy"][-1],
            "collapsed" if run["collapsed"] else "",
        )
        for row in r["rows"]
        if row["prediction"]["model"] == "plain"
        for run in row["runs"]
    ]
    head = [
        "model",
        "kind",
        "batch",
        "seed",
        "largest useful rate",
        "noise scale",
        "persistence",
        "best rate",
        "ahead by",
        "best at the end",
        "rate",
    ]
    return [
        section(
            "Accuracy against the rate, over the largest useful rate that was predicted",
            "Held-out accuracy, sampled, on average over the first steps. Predicted: the best between .25 and .75, and no "
            "collapse below .5.",
            charts.fragment(traces, "rates", "rate over the limit (log)", "accuracy", xaxis={"type": "log"}),
            table([*head, "collapses below half", "written"], predicted),
        ),
        section(
            "Every run",
            "Accuracy at the end is that of the last step that all runs of a kind, batch and seed have.",
            table(["kind", "batch", "seed", "rate", "over the limit", "mean", "at the end", "greedy", "collapse"], ran),
        ),
    ]
