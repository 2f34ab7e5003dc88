"""The pages of `driftline logprobs` and `driftline activations`: straightness of what the models put out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pyarrow.parquet as pq

from driftline.report import analysis, charts, movement
from driftline.report.page import asked, next_steps, number, options, page, section, table, text

_SHOWN, _CONTEXT = 12, 16  # tokens with the steepest lines, and tokens of text around each
_EXAMPLES, _LONGEST = 3, 200  # responses shown whole, and tokens of each
_HOVERED = 16  # checkpoints of a trajectory


def write_logprobs(folder: Path, summary: dict[str, Any], command: str) -> None:
    """`report.html` from the summary, and the tokens in `folder`."""
    tokens = pq.read_table(folder / "tokens.parquet")
    body = [
        analysis.verdict(summary),
        _next(summary, command),
        analysis.histogram(summary),
        _filter(summary),
        _most_moved(tokens, summary["steps"]),
        _examples(tokens, pq.read_table(folder / "sequences.parquet"), summary["steps"]),
        _mean(summary, folder),
        analysis.growth(summary),
        analysis.cosines(summary),
        movement.plane(summary),
        movement.segments(summary),
        movement.jumps(summary),
        analysis.skill(summary),
        analysis.how(summary, command),
    ]
    title = f"driftline logprobs · {summary['run']}"
    (folder / "report.html").write_text(page(title, *body), encoding="utf-8")


def write_activations(folder: Path, summary: dict[str, Any], command: str) -> None:
    """`report.html` from the summary."""
    body = [
        analysis.verdict(summary),
        _next(summary, command),
        analysis.histogram(summary),
        _blocks(summary),
        _source(summary),
        analysis.growth(summary),
        analysis.cosines(summary),
        movement.plane(summary),
        movement.segments(summary),
        movement.jumps(summary),
        analysis.skill(summary),
        analysis.how(summary, command),
    ]
    title = f"driftline activations · {summary['run']}"
    (folder / "report.html").write_text(page(title, *body), encoding="utf-8")


def _next(s: dict[str, Any], command: str) -> str:
    run, out = asked(command)
    why = "Outputs that run straight do not make a forecast of the weights good. Test that on the run's own later checkpoints."
    return next_steps(
        [
            (
                why,
                [
                    "driftline",
                    "backtest",
                    *run,
                    *options(command, "--steps", "--base", "--clock"),
                    "--out",
                    f"{out}-backtest",
                ],
            )
        ]
    )


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
    """The steepest tokens, up and down, in their text."""
    found = _Tokens(tokens, steps)
    order = np.argsort(found.slope)
    parts = []
    for title, rows in (("Rising most", order[::-1][:_SHOWN]), ("Falling most", order[:_SHOWN])):
        lines = []
        for row in map(int, rows):
            first, stop = found.response(row)
            near = range(max(row - _CONTEXT, first), min(row + _CONTEXT + 1, stop))
            series = found.series(row)
            lines.append(
                f"<tr><td><code>{found.marked(near, chosen=row)}</code></td><td class='n'>{series[0]:.2f} → {series[-1]:.2f}</td>"
                f"<td class='n'>{number(float(found.r2[row]))}</td></tr>"
            )
        head = "<tr><th>token in its text</th><th>log-prob, first → last</th><th>R²</th></tr>"
        parts.append(f"<h3>{title}</h3><div class='scroll'><table class='tokens'>{head}{''.join(lines)}</table></div>")
    return section(
        "The tokens that moved most",
        "Underlined: the token; around it, its response. Blue tokens become likelier with training, orange ones less likely, the deeper "
        "the faster, each colour on a scale of its own; hover over any of them for its log-prob at the checkpoints.",
        "".join(parts),
    )  # fmt: skip


def _examples(tokens: Any, sequences: Any, steps: Sequence[int]) -> str:
    """Whole responses that the early model favours, and that the late one does."""
    found = _Tokens(tokens, steps)
    total = sequences["logprob"].combine_chunks().values.to_numpy().reshape(-1, len(steps))
    change = (total[:, -1] - total[:, 0]) / sequences["tokens"].to_numpy()
    order = np.argsort(change)
    parts = []
    for title, chosen in (("Favoured late", order[::-1][:_EXAMPLES]), ("Favoured early", order[:_EXAMPLES])):
        parts.append(f"<h3>{title}</h3>")
        for each in map(int, chosen):
            start, stop = np.searchsorted(found.sequence, [each, each + 1])
            rest = " …" if stop - start > _LONGEST else ""
            parts.append(
                f'<p class="aid">Response {each}: {change[each]:+.3f} nats a token from step {steps[0]} to {steps[-1]}</p>'
                f"<pre><code>{found.marked(range(start, min(stop, start + _LONGEST)))}{rest}</code></pre>"
            )
    return section(
        "What the run moves towards, and away from",
        "The responses whose mean log-prob rose most and fell most, in the same colours.",
        "".join(parts),
    )


class _Tokens:
    """Tokens of `tokens.parquet` as marked text; a row of the table each."""

    def __init__(self, tokens: Any, steps: Sequence[int]) -> None:
        self.slope, self.sequence = tokens["slope"].to_numpy(), tokens["sequence"].to_numpy()
        self.r2 = tokens["r2"].to_numpy(zero_copy_only=False)
        self._tokens, self._steps = tokens, np.asarray(steps)
        self._hovered = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), _HOVERED)).round().astype(int))
        self._steep = {up: self._steepest(up) for up in (True, False)}

    def _steepest(self, up: bool) -> float:
        same = np.abs(self.slope[(self.slope > 0) == up])
        return (float(np.quantile(same, 0.99)) if same.size else 0.0) or 1.0

    def series(self, row: int) -> np.ndarray:
        return np.array(self._tokens["logprob"][row].as_py())

    def response(self, row: int) -> tuple[int, int]:
        """First row, and the one after the last, of the response that the token belongs to."""
        start, stop = np.searchsorted(self.sequence, [self.sequence[row], self.sequence[row] + 1])
        return int(start), int(stop)

    def marked(self, rows: range, chosen: int | None = None) -> str:
        """The text of the rows, each coloured by its slope and hovering with its trajectory."""
        return "".join(self._mark(row, chosen=row == chosen) for row in rows)

    def _mark(self, row: int, *, chosen: bool) -> str:
        slope, series = self.slope[row], self.series(row)
        depth = min(abs(slope) / self._steep[bool(slope > 0)], 1) * 0.6
        colour = f"rgba(0,114,178,{depth:.2f})" if slope > 0 else f"rgba(213,94,0,{depth:.2f})"
        hover = ", ".join(f"{self._steps[i]}: {series[i]:.2f}" for i in self._hovered)
        mark = ' class="chosen"' if chosen else ""
        token = self._tokens["token"][row].as_py()
        return f'<mark{mark} style="background:{colour}" title="{text(hover)}">{text(token)}</mark>'


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
        charts.fragment(figure, "source", "layer", "standard deviation", barmode="group")
        + f'<p class="aid">Spread over positions and units, of {text(widest["layer"])}, which changed most:</p>'
        + charts.fragment(spread, "source-spread", "change of an output", "share (log)"),
        table(["layer", "whole change", "input", "weight", "second order", "bias", "unexplained"], rows),
    )
