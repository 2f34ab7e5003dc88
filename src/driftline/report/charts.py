"""The frame of every chart: plain plotly figures, {data, layout}, that `page.js` draws. Colours: Okabe and Ito's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup, escape

from driftline.files.record import Figure
from driftline.report import page

RUN, CHANCE, FORECAST = "#0072b2", "#d55e00", "#009e73"
PALETTE = ["#808080", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#b2a000"]
LINES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#808080", "#b2a000"]
GREY = "#808080"
_GRID = "rgba(128,128,128,0.25)"

Trace = dict[str, Any]


class Mark(NamedTuple):
    """A line across a chart, and the words beside it."""

    shape: dict[str, Any]
    label: dict[str, Any] | None


def vertical(x: float, label: str = "", *, dash: str = "dot", left: bool = False) -> Mark:
    """A grey line at `x`, its label at the top, on the right unless `left`."""
    shape = {
        "type": "line",
        "x0": x,
        "x1": x,
        "y0": 0,
        "y1": 1,
        "yref": "y domain",
        "line": {"color": GREY, "dash": dash},
    }
    beside = {"x": x, "xanchor": "right" if left else "left", "y": 1, "yanchor": "top", "yref": "y domain"}
    return Mark(shape, {"text": label, "showarrow": False, **beside} if label else None)


def horizontal(y: float, label: str = "", *, colour: str = GREY) -> Mark:
    """A dotted line at `y`, its label above its right end."""
    shape = {
        "type": "line",
        "y0": y,
        "y1": y,
        "x0": 0,
        "x1": 1,
        "xref": "x domain",
        "line": {"color": colour, "dash": "dot"},
    }
    above = {"y": y, "yanchor": "bottom", "x": 1, "xanchor": "right", "xref": "x domain"}
    return Mark(shape, {"text": label, "showarrow": False, **above} if label else None)


def scatter(x: Any, y: Any, name: str, mode: str, **more: Any) -> Trace:
    return {"type": "scatter", "x": x, "y": y, "name": name, "mode": mode, **more}


def bars(x: Any, y: Any, name: str, colour: str, **more: Any) -> Trace:
    return {"type": "bar", "x": x, "y": y, "name": name, "marker": {"color": colour}, **more}


def spread(above: Sequence[float], below: Sequence[float]) -> dict[str, Any]:
    """Error bars that reach that far above and below."""
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1}


def layout(
    x: str, y: str, *, xaxis: dict[str, Any] | None = None, yaxis: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    """The look that all charts share; text takes its colour from the page, so that it suits light, dark and print."""
    axis = {"gridcolor": _GRID, "zerolinecolor": _GRID, "automargin": True}
    return {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": GREY, "size": 13, "family": "system-ui, sans-serif"},
        "margin": {"l": 56, "r": 12, "t": 8, "b": 48},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "hoverlabel": {"namelength": -1},
        "autosize": True,
        "xaxis": {"title": {"text": x}, **axis, **(xaxis or {})},
        "yaxis": {"title": {"text": y}, **axis, **(yaxis or {})},
        **more,
    }


def fragment(
    traces: Sequence[Trace], name: str, x: str, y: str, *, size: str = "", marks: Sequence[Mark] = (), **more: Any
) -> Markup:
    """The chart as an empty element of id `name` and the data that `page.js` draws there; `size` low makes it flat.

    `more` is layout; `xaxis` and `yaxis` in it are added to the shared look.
    """
    if marks:
        more |= {"shapes": [mark.shape for mark in marks], "annotations": [mark.label for mark in marks if mark.label]}
    figure = inert({"data": list(traces), "layout": layout(x, y, **more)})
    data = page.embedded(f"{name}-data", figure)
    return page.render("chart.html", name=name, size=size, height=more.get("height"), data=data)


def inert(value: Any) -> Any:
    """A figure, or part of one, in which no text is markup to plotly, and floats have nine digits, or are null.

    Plotly reads a little HTML in labels; only a `hovertemplate`, which is never foreign, keeps it.
    """
    if isinstance(value, str):
        return str(escape(value))
    if isinstance(value, dict):
        return {key: each if key == "hovertemplate" else inert(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [inert(each) for each in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return inert(value.tolist())
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None  # JSON has no other, plotly leaves a gap
    return value


def r2_histogram(shares: np.ndarray, null_shares: np.ndarray, *, name: str = "r2-histogram") -> Markup:
    """Share of what was measured per bin of R², the matched driftless walk drawn over it."""
    edges = np.linspace(0, 1, len(shares) + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    line = {"color": CHANCE, "width": 2, "shape": "hvh"}
    traces = [
        bars(centres, shares, "this run", RUN, width=edges[1]),
        scatter(centres, null_shares, "driftless walk", "lines", line=line),
    ]
    return fragment(
        traces,
        name,
        "R² of its straight line (0 to 1)",
        f"share, per bin of {edges[1]:g}",
        bargap=0,
        marks=[vertical(0.7, "0.7", left=True)],
        yaxis={"tickformat": ".0%", "rangemode": "tozero"},
    )


def skill_by_horizon(pooled: dict[str, list[dict[str, float]]], recommended: float, lowest: float) -> Markup:
    """Pooled skill of each method against the horizon, with its lower end; the recommended horizon marked."""
    traces = []
    for i, (method, found) in enumerate(pooled.items()):
        x, y = [p["horizon"] for p in found], [p["skill"] for p in found]
        low = [p["skill"] if p["low"] is None else p["low"] for p in found]
        below = spread([0.0] * len(x), [s - l for s, l in zip(y, low, strict=True)])
        line = {"color": LINES[i % len(LINES)]}
        traces.append(scatter(x, y, method, "lines+markers", line=line, marker={"size": 5}, error_y=below))
    marks = [horizontal(0)]
    if recommended > 0:
        marks.append(vertical(recommended, "recommended", dash="dash"))
    axes = ("training steps ahead", "skill (1 perfect, 0 as holding)")
    return fragment(traces, "skill", *axes, marks=marks, yaxis={"range": [lowest, 1.05]})


def growth(elapsed: np.ndarray, norms: np.ndarray, power: Figure, null_power: Figure, x: str) -> Markup:
    """Norm of the update against the clock, both logarithmic, with the fitted power and chance's, where there are any.

    Nothing where there is no norm above 0 to draw.
    """
    if not norms.size:
        return page.NOTHING
    traces = [scatter(elapsed, norms, "this run", "markers", marker={"color": RUN, "size": 8})]
    reached = [norms]
    if power is not None:
        fitted = np.exp(np.mean(np.log(norms) - power * np.log(elapsed)) + power * np.log(elapsed))
        traces.append(scatter(elapsed, fitted, f"power {power:.2f}", "lines", line={"color": RUN}))
    if null_power is not None:
        chance = norms[-1] * (elapsed / elapsed[-1]) ** null_power
        reached.append(chance)
        walk = f"driftless walk, power {null_power:.2f}"
        traces.append(scatter(elapsed, chance, walk, "lines", line={"color": CHANCE, "dash": "dash"}))
    return fragment(
        traces,
        "growth",
        f"{x} since the first checkpoint (log)",
        "norm of the update (log)",
        xaxis={"type": "log", "tickvals": _one_two_five(elapsed)},
        yaxis={"type": "log", "tickvals": _one_two_five(np.concatenate(reached))},
    )


def _one_two_five(values: np.ndarray) -> list[float]:
    """Round numbers that span the values, for a logarithmic axis; none where it can show none of them."""
    shown = np.log10(values[np.isfinite(values) & (values > 0)])
    if not shown.size:
        return []
    powers = range(int(np.floor(shown.min())), int(np.ceil(shown.max())) + 1)
    return [float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5)]


def forest(rows: Sequence[Any], names: list[str], figures: list[tuple[str, str, str, str]], name: str) -> Markup:
    """Medians with quartiles of several figures, (key, label, colour, symbol) each, one row of the plot for each row."""
    traces = []
    for place, (key, label, colour, symbol) in enumerate(figures):
        offset = 0.15 * (place - (len(figures) - 1) / 2)
        quartiles = np.array([[row[key][which] for which in ("q25", "median", "q75")] for row in rows], float)
        middle, above, below = quartiles[:, 1], quartiles[:, 2] - quartiles[:, 1], quartiles[:, 1] - quartiles[:, 0]
        marker = {"color": colour, "symbol": symbol, "size": 8}
        y = [i + offset for i in range(len(rows))]
        traces.append(scatter(middle, y, label, "markers", marker=marker, error_x=spread(above, below)))
    return fragment(
        traces,
        name,
        "R² of a straight line",
        "",
        height=max(400, 26 * len(rows) + 120),
        marks=[vertical(0.7, dash="dash")],
        xaxis={"range": [0, 1.02]},
        yaxis={"tickvals": list(range(len(rows))), "ticktext": names, "autorange": "reversed"},
    )
