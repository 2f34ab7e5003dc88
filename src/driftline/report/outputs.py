"""The pages of `driftline logprobs` and `driftline activations`: straightness of what the models put out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from markupsafe import Markup

from driftline.files.parquet import read_table
from driftline.linearity.summary import ActivationsSummary, LogprobsSummary, Summary
from driftline.report import analysis, charts, movement, page, tokens
from driftline.report.page import Steps, number, section, table

_TERMS = (
    ("input", "from its input, W₀Δx", charts.RUN),
    ("weight", "from its weights, ΔWx₀", charts.CHANCE),
    ("second_order", "both, ΔWΔx", charts.FORECAST),
)


def write_logprobs(folder: Path, summary: LogprobsSummary, *, command: str, next_steps: Steps = ()) -> None:
    """`report.html` from the summary, and the tokens in `folder`; `command` made it, `next_steps` may follow."""
    sequences = read_table(folder / "sequences.parquet")
    body = [
        analysis.verdict(summary),
        page.next_steps(next_steps),
        analysis.histogram(summary),
        _filter(summary),
        *tokens.sections(read_table(folder / "tokens.parquet"), sequences, summary.steps),
        _mean(summary, sequences),
        *_shape(summary),
        analysis.how(summary, command),
    ]
    page.write(folder, f"driftline logprobs · {summary.run}", body)


def write_activations(folder: Path, summary: ActivationsSummary, *, command: str, next_steps: Steps = ()) -> None:
    """`report.html` from the summary; `command` made it, `next_steps` may follow."""
    body = [
        analysis.verdict(summary),
        page.next_steps(next_steps),
        analysis.histogram(summary),
        _blocks(summary),
        _source(summary),
        *_shape(summary),
        analysis.how(summary, command),
    ]
    page.write(folder, f"driftline activations · {summary.run}", body)


def _shape(summary: Summary) -> list[Markup]:
    """What the page of an analysis of weights has too."""
    drawn = (analysis.growth, analysis.cosines, movement.plane, movement.segments, movement.jumps, analysis.skill)
    return [draw(summary) for draw in drawn]


def _filter(s: LogprobsSummary) -> Markup:
    f = s.paper_filter
    if not f.kept:
        return section(
            "The paper's filter",
            f"No token moved by more than {f.threshold} nats from the first checkpoint to the last.",
            page.NOTHING,
        )
    run, chance = (np.array(counts) / max(sum(counts), 1) for counts in (f.r2_histogram.run, f.r2_histogram.null))
    measured, walks = msgspec.to_builtins(f.r2), msgspec.to_builtins(f.null_r2)
    return section(
        "With the paper's filter, which selects on the trend itself",
        f"Only the {f.kept:,} tokens ({number(f.kept_share)} of all) that moved by more than {f.threshold} nats from the first "
        f"checkpoint to the last. Driftless walks that pass the same filter look straight too: median {number(f.null_r2.median)} "
        f"beside {number(f.r2.median)}.",
        charts.r2_histogram(run, chance, name="r2-filtered"),
        table(
            ["", "this run", "driftless walks that pass"],
            [(name, value, walks[name]) for name, value in measured.items()],
        ),
    )


def _mean(s: LogprobsSummary, sequences: Any) -> Markup:
    kl = sequences["kl_from_first"].combine_chunks().values.to_numpy().reshape(-1, len(s.steps)).mean(0)
    x = "training step" if s.clock == "step" else "summed learning rate"
    drawn = [
        charts.fragment([{"type": "scatter", "x": s.clock_values, "y": y, "line": {"color": colour}}], name, x, label)
        for name, y, colour, label in (
            ("likelihood", s.mean_logprob, charts.RUN, "mean log-prob of a token, nats"),
            ("divergence", kl, charts.CHANCE, "KL of a response, nats"),
        )
    ]
    return section(
        "How likely the fixed responses become, and how far the policy has moved",
        "Above: mean log-prob of a response token. Below: divergence from the first checkpoint, estimated on these responses "
        "(an estimate of KL only if the first checkpoint sampled them).",
        page.joined(drawn),
        table(
            ["clock", "mean log-prob", "KL"],
            list(zip(s.clock_values, s.mean_logprob, map(float, kl), strict=True)),
        ),
    )


def _blocks(s: ActivationsSummary) -> Markup:
    rows = [(name, f.median, f.mean, f.share_above_07) for name, f in s.blocks.items()]
    chance = s.null_r2
    rows.append(("driftless walk", chance.median, chance.mean, chance.share_above_07))
    return section(
        "Which blocks run straight",
        "R² of sampled units at sampled positions, for each chosen layer's hidden states, attention and MLP output.",
        table(["block", "median R²", "mean R²", "share above 0.7"], rows),
    )


def _source(s: ActivationsSummary) -> Markup:
    changes = s.source_of_change
    if not changes:  # none of the chosen blocks has a linear layer
        return page.NOTHING
    layers = [c.layer for c in changes]
    sources = [charts.bars(layers, [c.sd[term] for c in changes], label, colour) for term, label, colour in _TERMS]
    rows = [(c.layer, c.sd_total, *c.sd.values(), c.unexplained) for c in changes]
    widest = max(changes, key=lambda change: change.sd_total)
    reach = widest.reach
    spread = []
    for term, label, colour in _TERMS:
        counts = np.array(widest.counts(term))
        edges = np.linspace(-reach, reach, len(counts) + 1)
        line = {"color": colour, "shape": "hvh"}
        x, y = (edges[:-1] + edges[1:]) / 2, counts / counts.sum()
        spread.append({"type": "scatter", "x": x, "y": y, "name": label, "line": line})
    slanted = {"tickangle": -60}
    drawn = [
        charts.fragment(sources, "source", "layer", "standard deviation", xaxis=slanted, barmode="group"),
        page.aid(f"Spread over positions and units, of {widest.layer}, which changed most:"),
        charts.fragment(spread, "source-spread", "change of an output", "share (log)", yaxis={"type": "log"}),
    ]
    return section(
        "Where the change of a layer's output comes from",
        "Between the first and the last checkpoint, for every linear layer of the chosen blocks: what came from below, what its "
        "own weights did, and the product of both. They add up to the change; the last column of the table says how closely.",
        page.joined(drawn),
        table(["layer", "whole change", "input", "weight", "second order", "bias", "unexplained"], rows),
    )
