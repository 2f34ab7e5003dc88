"""The charts of the reports, as plotly fragments. Colours: Okabe and Ito's, safe for colour-blind readers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from driftline.report.page import text

RUN, CHANCE, FORECAST = "#0072b2", "#d55e00", "#009e73"
PALETTE = ["#808080", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#b2a000"]
LINES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#808080", "#b2a000"]
_GREY = "#808080"
_RISING: list[list[float | str]] = [
    [0, "#00204d"],
    [0.25, "#3d4f6f"],
    [0.5, "#7f7c75"],
    [0.75, "#bfad60"],
    [1, "#ffe945"],
]  # cividis
_DIVERGING: list[list[float | str]] = [
    [0, "#b35806"],
    [0.25, "#f1a340"],
    [0.5, "#f7f7f7"],
    [0.75, "#67a9cf"],
    [1, "#2166ac"],
]
_GRID = "rgba(128,128,128,0.25)"
_BAR = {"orientation": "h", "thickness": 10, "x": 0.5, "y": 1.02, "yanchor": "bottom"}
COSINES = {
    "cmin": -1,
    "cmax": 1,
    "colorscale": _DIVERGING,
    "colorbar": {**_BAR, "title": {"text": "cosine", "side": "top"}},
}


def styled(figure: go.Figure, x: str, y: str, **layout: Any) -> go.Figure:
    """The look that all charts share; text takes its colour from the page, so that it suits light, dark and print."""
    figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": _GREY, "size": 13, "family": "system-ui, sans-serif"},
        margin={"l": 56, "r": 12, "t": 8, "b": 48},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        hoverlabel={"namelength": -1},
        autosize=True,
    )
    figure.update_layout(**layout)
    figure.update_xaxes(title_text=x, gridcolor=_GRID, zerolinecolor=_GRID, automargin=True)
    figure.update_yaxes(title_text=y, gridcolor=_GRID, zerolinecolor=_GRID, automargin=True)
    return figure


def fragment(figure: go.Figure, name: str, x: str, y: str, *, size: str = "", **layout: Any) -> str:
    """The chart as an empty element of id `name` and the data that `page.js` draws there; `size` low makes it flat."""
    drawn = styled(figure, x, y, **layout).to_json().replace("<", "\\u003c")
    kind = f"chart {size}".strip()
    height = f' style="height:{layout["height"]}px"' if "height" in layout else ""
    return (
        f'<div class="{kind}" id="{name}" data-from="{name}-data"{height}></div>'
        f'<script type="application/json" id="{name}-data">{drawn}</script>'
    )


def r2_histogram(shares: np.ndarray, null_shares: np.ndarray, *, name: str = "r2-histogram") -> str:
    """Share of what was measured per bin of R², the matched driftless walk drawn over it."""
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
    figure.add_vline(x=0.7, line={"color": _GREY, "dash": "dot"}, annotation_text="0.7", annotation_position="top left")
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    return fragment(figure, name, "R² of its straight line (0 to 1)", f"share, per bin of {edges[1]:g}", bargap=0)


@dataclass(frozen=True)
class Measure:
    """Values [rows, columns] of a map (NaN: an empty cell), and the range of their colours; diverging where it starts below 0."""

    values: np.ndarray
    label: str
    lowest: float = 0.0
    highest: float = 1.0

    @property
    def cells(self) -> list[list[float | None]]:
        return [[None if np.isnan(v) else float(f"{v:.4g}") for v in row] for row in self.values]

    @property
    def colours(self) -> list[list[float | str]]:
        return _DIVERGING if self.lowest < 0 else _RISING

    def restyled(self) -> list[dict[str, Any]]:
        """What to change in a drawn map (traces, layout) to show this measure."""
        bar = {"coloraxis.cmin": self.lowest, "coloraxis.cmax": self.highest, "coloraxis.colorscale": self.colours,
               "coloraxis.colorbar.title.text": text(self.label)}  # fmt: skip
        return [{"z": [self.cells]}, bar]


def heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    measure: Measure,
    *,
    name: str = "heat-map",
    axes: tuple[str, str] = ("module", "layer"),
    cells: list[list[Any]] | None = None,
) -> str:
    """A map [rows, columns]; `cells` [rows, columns] is what a click on each passes on."""
    figure = go.Figure(
        go.Heatmap(
            z=measure.cells,
            x=[text(column) for column in columns],
            y=[text(row) for row in rows],
            customdata=cells,
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
            hovertemplate="%{y}, %{x}: %{z:.3g}<extra></extra>",
        )
    )
    figure.update_layout(
        coloraxis={
            "cmin": measure.lowest, "cmax": measure.highest, "colorscale": measure.colours,
            "colorbar": {"title": {"text": text(measure.label), "side": "top"}, "orientation": "h", "thickness": 10,
                         "x": 0.5, "y": 1.02, "yanchor": "bottom"},
        }
    )  # fmt: skip
    figure.update_xaxes(type="category", tickangle=-45, showgrid=False)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return fragment(figure, name, *axes, height=int(np.clip(28 * len(rows) + 230, 330, 900)))


def skill_by_horizon(pooled: dict[str, list[dict[str, float]]], recommended: float, lowest: float) -> str:
    """Pooled skill of each method against the horizon, with its lower end; the recommended horizon marked."""
    figure = go.Figure()
    for i, (method, found) in enumerate(pooled.items()):
        x, y = [p["horizon"] for p in found], [p["skill"] for p in found]
        low = [p["low"] if p["cutoffs"] >= 3 else p["skill"] for p in found]
        colour = LINES[i % len(LINES)]
        below = {"type": "data", "symmetric": False, "array": [0.0] * len(x), "thickness": 1,
                 "arrayminus": [s - l for s, l in zip(y, low, strict=True)]}  # fmt: skip
        figure.add_scatter(
            x=x, y=y, name=method, mode="lines+markers", line={"color": colour}, marker={"size": 5}, error_y=below
        )
    figure.add_hline(y=0, line={"color": _GREY, "dash": "dot"})
    if recommended > 0:
        figure.add_vline(x=recommended, line={"color": _GREY, "dash": "dash"}, annotation_text="recommended")
    figure.update_yaxes(range=[lowest, 1.05])
    return fragment(figure, "skill", "training steps ahead", "skill (1 perfect, 0 as holding)")


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
    figure.update_xaxes(type="log", tickvals=_one_two_five(elapsed))
    figure.update_yaxes(type="log", tickvals=_one_two_five(np.concatenate([norms, chance])))
    return fragment(figure, "growth", f"{x} since the first checkpoint (log)", "norm of the update (log)")


def _one_two_five(values: np.ndarray) -> list[float]:
    """Round numbers that span the values, for a logarithmic axis."""
    powers = range(int(np.floor(np.log10(values.min()))), int(np.ceil(np.log10(values.max()))) + 1)
    return [float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5)]


def cosine_matrix(cosines: np.ndarray, intervals: Sequence[str]) -> str:
    """Cosines between the increments of the run's intervals."""
    figure = go.Figure(
        go.Heatmap(
            z=cosines, x=list(intervals), y=list(intervals), zmin=-1, zmax=1, colorscale=_DIVERGING,
            colorbar={"title": {"text": "cosine", "side": "top"}, "orientation": "h", "thickness": 10, "y": 1.02, "yanchor": "bottom"},
            hovertemplate="%{y} and %{x}: %{z:.3f}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(type="category", tickangle=-45)
    figure.update_yaxes(type="category", autorange="reversed")
    return fragment(figure, "cosines", "interval (steps)", "interval (steps)", height=520)


def forest(rows: list[dict[str, Any]], names: list[str], figures: list[tuple[str, str, str, str]], name: str) -> str:
    """Medians with quartiles of several figures, (key, label, colour, symbol) each, one row of the plot for each row."""
    figure = go.Figure()
    for place, (key, label, colour, symbol) in enumerate(figures):
        offset = 0.15 * (place - (len(figures) - 1) / 2)
        middle = [row[key]["median"] for row in rows]
        above = [row[key]["q75"] - m for row, m in zip(rows, middle, strict=True)]
        below = [m - row[key]["q25"] for row, m in zip(rows, middle, strict=True)]
        figure.add_scatter(
            x=middle, y=[i + offset for i in range(len(rows))], mode="markers", name=label,
            marker={"color": colour, "symbol": symbol, "size": 8},
            error_x={"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1},
        )  # fmt: skip
    figure.add_vline(x=0.7, line={"color": _GREY, "dash": "dash"})
    figure.update_yaxes(tickvals=list(range(len(rows))), ticktext=names, autorange="reversed", automargin=True)
    figure.update_xaxes(range=[0, 1.02])
    return fragment(figure, name, "R² of a straight line", "", height=max(400, 26 * len(rows) + 120))
