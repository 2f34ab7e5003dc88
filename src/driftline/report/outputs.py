"""The pages of `driftline logprobs` and `driftline activations`: straightness of what the models put out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pyarrow.parquet as pq

from driftline.report import analysis, charts
from driftline.report.page import number, page, section, table, text

_SHOWN, _CONTEXT = 12, 16  # tokens with the steepest lines, and tokens of text around each


def write_logprobs(folder: Path, summary: dict[str, Any], command: str) -> None:
    """`report.html` from the summary, and the tokens in `folder`."""
    tokens = pq.read_table(folder / "tokens.parquet")
    body = [
        analysis.verdict(summary),
        analysis.histogram(summary),
        _filter(summary),
        _most_moved(tokens, summary["steps"]),
        _mean(summary, folder),
        analysis.growth(summary),
        analysis.cosines(summary),
        analysis.skill(summary),
        analysis.how(summary, command),
    ]
    title = f"driftline logprobs · {summary['run']}"
    (folder / "report.html").write_text(page(title, *body), encoding="utf-8")


def write_activations(folder: Path, summary: dict[str, Any], command: str) -> None:
    """`report.html` from the summary."""
    body = [
        analysis.verdict(summary),
        analysis.histogram(summary),
        _blocks(summary),
        _source(summary),
        analysis.growth(summary),
        analysis.cosines(summary),
        analysis.skill(summary),
        analysis.how(summary, command),
    ]
    title = f"driftline activations · {summary['run']}"
    (folder / "report.html").write_text(page(title, *body), encoding="utf-8")


def _filter(s: dict[str, Any]) -> str:
    f = s["paper_filter"]
    if not f["kept"]:
        return section(
            "The paper's filter",
            f"No token moved by more than {f['threshold']} nats from the first checkpoint to the last.",
            "",
        )
    run, chance = (
        np.array(f["r2_histogram"][whose]) / max(sum(f["r2_histogram"][whose]), 1) for whose in ("run", "null")
    )
    return section(
        "With the paper's filter, which selects on the trend itself",
        f"Only the {f['kept']:,} tokens ({number(f['kept_share'])} of all) that moved by more than {f['threshold']} nats from the first "
        f"checkpoint to the last. Driftless walks that pass the same filter look straight too: median {number(f['null_r2']['median'])} "
        f"beside {number(f['r2']['median'])}.",
        charts.r2_histogram(run, chance, name="r2-filtered"),
        table(["", "this run", "driftless walks that pass"], [(n, f["r2"][n], f["null_r2"][n]) for n in f["r2"]]),
    )


def _most_moved(tokens: Any, steps: Sequence[int]) -> str:
    """The steepest tokens, up and down, in their text; hover for the trajectory."""
    slope, r2 = tokens["slope"].to_numpy(), tokens["r2"].to_numpy(zero_copy_only=False)
    words, sequence = tokens["token"].to_pylist(), tokens["sequence"].to_numpy()
    order = np.argsort(slope)
    parts = []
    for title, rows in (("Falling most", order[:_SHOWN]), ("Rising most", order[::-1][:_SHOWN])):
        lines = []
        for row in rows:
            near = [
                i
                for i in range(max(row - _CONTEXT, 0), min(row + _CONTEXT + 1, len(words)))
                if sequence[i] == sequence[row]
            ]
            series = tokens["logprob"][int(row)].as_py()
            hover = ", ".join(f"{step}: {value:.2f}" for step, value in zip(steps, series, strict=True))
            marked = "".join(
                f'<mark class="{"up" if slope[row] > 0 else "down"}" title="{text(hover)}">{text(words[i])}</mark>'
                if i == row
                else text(words[i])
                for i in near
            )
            lines.append(
                f"<tr><td><code>{marked}</code></td><td class='n'>{series[0]:.2f} → {series[-1]:.2f}</td><td class='n'>{number(float(r2[row]))}</td></tr>"
            )
        head = "<tr><th>token in its text</th><th>log-prob, first → last</th><th>R²</th></tr>"
        parts.append(f"<h3>{title}</h3><div class='scroll'><table>{head}{''.join(lines)}</table></div>")
    return section(
        "The tokens that moved most",
        "Marked tokens, steepest lines first; hover for the log-prob at every checkpoint. Only response tokens are shown around them.",
        "".join(parts),
    )


def _mean(s: dict[str, Any], folder: Path) -> str:
    sequences = pq.read_table(folder / "sequences.parquet")
    kl = sequences["kl_from_first"].combine_chunks().values.to_numpy().reshape(-1, len(s["steps"])).mean(0)
    x = "training step" if s["clock"] == "step" else "summed learning rate"
    drawn = [
        charts.fragment(go.Figure(go.Scatter(x=s["clock_values"], y=y, line={"color": colour})), name, x, label)
        for name, y, colour, label in (
            ("likelihood", s["mean_logprob"], charts.RUN, "mean log-prob of a token, nats"),
            ("divergence", kl, charts.CHANCE, "KL of a response, nats"),
        )
    ]
    return section(
        "How likely the fixed responses become, and how far the policy has moved",
        "Above: mean log-prob of a response token. Below: divergence from the first checkpoint, estimated on these responses "
        "(an estimate of KL only if the first checkpoint sampled them).",
        "".join(drawn),
        table(
            ["clock", "mean log-prob", "KL"],
            list(zip(s["clock_values"], s["mean_logprob"], map(float, kl), strict=True)),
        ),
    )


def _blocks(s: dict[str, Any]) -> str:
    rows = [(name, f["median"], f["mean"], f["share_above_0.7"]) for name, f in s["blocks"].items()]
    chance = s["null_r2"]
    rows.append(("driftless walk", chance["median"], chance["mean"], chance["share_above_0.7"]))
    return section(
        "Which blocks run straight",
        "R² of sampled units at sampled positions, for each chosen layer's hidden states, attention and MLP output.",
        table(["block", "median R²", "mean R²", "share above 0.7"], rows),
    )


def _source(s: dict[str, Any]) -> str:
    changes = s["source_of_change"]
    figure = go.Figure()
    names = {"input": "from its input, W₀Δx", "weight": "from its weights, ΔWx₀", "second_order": "both, ΔWΔx"}
    for (term, label), colour in zip(names.items(), (charts.RUN, charts.CHANCE, charts.FORECAST), strict=True):
        figure.add_bar(
            x=[text(c["layer"]) for c in changes], y=[c["sd"][term] for c in changes], name=label, marker_color=colour
        )
    figure.update_xaxes(tickangle=-60, automargin=True)
    rows = [(c["layer"], c["sd_total"], *c["sd"].values(), c["unexplained"]) for c in changes]
    widest = max(changes, key=lambda change: change["sd_total"])
    reach = widest["histogram"]["reach"]
    spread = go.Figure()
    for (term, label), colour in zip(names.items(), (charts.RUN, charts.CHANCE, charts.FORECAST), strict=True):
        counts = np.array(widest["histogram"][term])
        edges = np.linspace(-reach, reach, len(counts) + 1)
        spread.add_scatter(
            x=(edges[:-1] + edges[1:]) / 2, y=counts / counts.sum(), name=label, line={"color": colour, "shape": "hvh"}
        )
    spread.update_yaxes(type="log")
    return section(
        "Where the change of a layer's output comes from",
        "Between the first and the last checkpoint, for every linear layer of the chosen blocks: what came from below, what its "
        "own weights did, and the product of both. They add up to the change; the last column of the table says how closely.",
        charts.fragment(figure, "source", "layer", "standard deviation of the change", barmode="group")
        + f'<p class="aid">Spread over positions and units, of {text(widest["layer"])}, which changed most:</p>'
        + charts.fragment(spread, "source-spread", "change of an output", "share (log)"),
        table(["layer", "whole change", "input", "weight", "second order", "bias", "unexplained"], rows),
    )
