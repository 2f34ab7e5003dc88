"""The demo's own page: what was forecast from the first part of the run, beside what the run then did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from driftline.report import charts, page
from driftline.report.page import Steps, section, table

if TYPE_CHECKING:
    from driftline.lab.record import DemoScores, ScoredStep


def write(
    folder: Path,
    scores: DemoScores,
    rows: Sequence[ScoredStep],
    *,
    seen: int,
    target: int,
    command: str,
    next_steps: Steps = (),
) -> None:
    """`report.html`, from the record of `scores.json` and the accuracy of the run as it went.

    Args:
        seen, target: the last step that the forecast was made from, and the step that it is a forecast of.
    """
    body = [
        *_verdict(scores, seen, target),
        page.next_steps(next_steps),
        _curves(scores, rows, seen, target),
        _table(scores),
        page.made(command, [("problems", scores.problems), ("samples of each", scores.samples)]),
    ]
    page.write(folder, "driftline demo", body)


def _verdict(r: DemoScores, seen: int, target: int) -> list[Markup]:
    control = r.hindsight
    if not control:
        return []
    greedy = control.greedy or {}
    forecast = control.late.avg_at_k + control.gain.mean
    cards = [
        (f"{greedy['forecast']:.2f}", f"greedy, forecast of step {target}", f"step {seen} has {greedy['late']:.2f}"),
        (
            f"{forecast:.2f}",
            f"sampled, forecast of step {target}",
            f"step {seen}, as sure: {control.late_matched.avg_at_k:.2f}",
        ),
    ]
    return [page.verdict(f"{control.sentence[0].upper()}{control.sentence[1:]}.", control.verdict == "gain", cards)]


def _curves(r: DemoScores, rows: Sequence[ScoredStep], seen: int, target: int) -> Markup:
    steps = [row.step for row in rows]
    traces = [
        charts.scatter(steps, [row.greedy for row in rows], "the run, greedy", "lines", line={"color": charts.RUN}),
        charts.scatter(
            steps, [row.sampled for row in rows], "the run, sampled", "lines", line={"color": charts.RUN, "dash": "dot"}
        ),
    ]
    if control := r.hindsight:
        greedy = control.greedy or {}
        points = (
            ("forecast, greedy", greedy["forecast"], charts.FORECAST, "circle"),
            ("forecast, sampled", control.late.avg_at_k + control.gain.mean, charts.FORECAST, "circle-open"),
            (f"step {seen} as sure as it, sampled", control.late_matched.avg_at_k, charts.CHANCE, "x"),
        )
        for name, score, colour, symbol in points:
            marker = {"color": colour, "size": 12, "symbol": symbol, "line": {"width": 2}}
            traces.append(charts.scatter([target], [score], name, "markers", marker=marker))
    marks = [charts.vertical(seen, "seen up to here", dash="dash")]
    return section(
        "What it saw, and what it foretold",
        f"Accuracy on held-out problems. The forecast of step {target} was made from the weights of steps 0 to {seen} alone.",
        charts.fragment(traces, "foretold", "training step", "accuracy", marks=marks, yaxis={"range": [0, 1.02]}),
    )


def _table(r: DemoScores) -> Markup:
    rows = [(row.model, f"{row.greedy:.3f}", f"{row.sampled:.3f}") for row in r.rows]
    return section(
        "The models side by side",
        "A checkpoint at the temperature at which it is as sure of its tokens as the forecast is the control for sharpening.",
        table(["", "greedy", "sampled"], rows),
    )
