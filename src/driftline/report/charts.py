"""The charts of the reports, as plotly fragments. Colours: Okabe and Ito's, safe for colour-blind readers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from driftline.report.page import text

RUN, CHANCE, FORECAST = "#0072b2", "#d55e00", "#009e73"
_GREY = "#808080"
_GRID = "rgba(128,128,128,0.25)"


def fragment(figure: go.Figure, name: str, x: str, y: str, **layout: Any) -> str:
    """The chart as HTML without plotly's script; `name` becomes its element's id."""
    figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": _GREY, "size": 13},
        margin={"l": 64, "r": 16, "t": 8, "b": 48},
        legend={"orientation": "h", "y": 1.12},
        **layout,
    )
    figure.update_xaxes(title_text=x, gridcolor=_GRID, zerolinecolor=_GRID)
    figure.update_yaxes(title_text=y, gridcolor=_GRID, zerolinecolor=_GRID)
    return figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=name,
        config={"displayModeBar": False, "responsive": True},
        default_height="24rem",
    )


def r2_histogram(shares: np.ndarray, null_shares: np.ndarray) -> str:
    """Share of parameters per bin of R², the matched driftless walk drawn over it."""
    edges = np.linspace(0, 1, len(shares) + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    figure = go.Figure(
        [
            go.Bar(x=centres, y=shares, name="this run", marker_color=RUN, width=edges[1]),
            go.Scatter(
                x=centres,
                y=null_shares,
                name="driftless walk",
                mode="lines",
                line={"color": CHANCE, "width": 2, "shape": "hvh"},
            ),
        ]
    )
    figure.add_vline(x=0.7, line={"color": _GREY, "dash": "dot"})
    return fragment(figure, "r2-histogram", "R² of a parameter's straight line", "share of parameters", bargap=0)


def heat_map(layers: Sequence[str], modules: Sequence[str], values: np.ndarray) -> str:
    """Median R² by layer (rows) and module (columns); NaN cells stay empty."""
    figure = go.Figure(
        go.Heatmap(
            z=[[None if np.isnan(v) else float(v) for v in row] for row in values],
            x=[text(module) for module in modules],
            y=[text(layer) for layer in layers],
            zmin=0,
            zmax=1,
            colorscale="Cividis",
            colorbar={"title": {"text": "median R²"}},
            hovertemplate="%{y}, %{x}: %{z:.3f}<extra></extra>",
        )
    )
    figure.update_xaxes(type="category", tickangle=-40, automargin=True)
    figure.update_yaxes(type="category", autorange="reversed", automargin=True)
    return fragment(figure, "heat-map", "module", "layer")


def growth(elapsed: np.ndarray, norms: np.ndarray, exponent: float, null_exponent: float, x: str) -> str:
    """Norm of the update against the clock, both logarithmic, with the fitted power and chance's."""
    scale = float(np.exp(np.mean(np.log(norms) - exponent * np.log(elapsed))))
    chance = norms[-1] * (elapsed / elapsed[-1]) ** null_exponent
    figure = go.Figure(
        [
            go.Scatter(x=elapsed, y=norms, name="this run", mode="markers", marker={"color": RUN, "size": 8}),
            go.Scatter(
                x=elapsed, y=scale * elapsed**exponent, name=f"power {exponent:.2f}", mode="lines", line={"color": RUN}
            ),
            go.Scatter(
                x=elapsed,
                y=chance,
                name=f"driftless walk, power {null_exponent:.2f}",
                mode="lines",
                line={"color": CHANCE, "dash": "dash"},
            ),
        ]
    )
    figure.update_xaxes(type="log")
    figure.update_yaxes(type="log")
    return fragment(figure, "growth", f"{x} since the first checkpoint (log)", "norm of the update (log)")


def cosine_matrix(cosines: np.ndarray, intervals: Sequence[str]) -> str:
    """Cosines between the increments of the run's intervals."""
    figure = go.Figure(
        go.Heatmap(
            z=cosines, x=list(intervals), y=list(intervals), zmin=-1, zmax=1, colorscale="RdBu", reversescale=True,
            colorbar={"title": {"text": "cosine"}}, hovertemplate="%{y} and %{x}: %{z:.3f}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(type="category", automargin=True)
    figure.update_yaxes(type="category", autorange="reversed", automargin=True)
    return fragment(figure, "cosines", "interval (steps)", "interval (steps)")


def sample_weights(clock: np.ndarray, names: Sequence[str], values: np.ndarray, x: str) -> str:
    """Sampled weights, as change since the first checkpoint, with their least-squares lines."""
    palette = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#808080", "#b2a000"]
    figure = go.Figure()
    for i, (name, series) in enumerate(zip(names, values, strict=True)):
        change = series.astype(float) - float(series[0])
        slope, intercept = np.polyfit(clock, change, 1)
        colour, label = palette[i % len(palette)], text(name)
        figure.add_scatter(x=clock, y=change, mode="markers", name=label, marker={"color": colour}, legendgroup=str(i))
        figure.add_scatter(
            x=clock,
            y=slope * clock + intercept,
            mode="lines",
            line={"color": colour},
            showlegend=False,
            legendgroup=str(i),
        )
    return fragment(figure, "samples", x, "change of the weight", showlegend=False)
