"""Charts of cells: a figure for each place of the model, and the cosines between a run's intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from driftline.report import charts

_RISING = [[0, "#00204d"], [0.25, "#3d4f6f"], [0.5, "#7f7c75"], [0.75, "#bfad60"], [1, "#ffe945"]]  # cividis
_DIVERGING = [[0, "#b35806"], [0.25, "#f1a340"], [0.5, "#f7f7f7"], [0.75, "#67a9cf"], [1, "#2166ac"]]


def _bar(label: str) -> dict[str, Any]:
    """A flat colour bar above the chart."""
    title = {"text": label, "side": "top"}
    return {"title": title, "orientation": "h", "thickness": 10, "x": 0.5, "y": 1.02, "yanchor": "bottom"}


COSINES = {"cmin": -1, "cmax": 1, "colorscale": _DIVERGING, "colorbar": _bar("cosine")}


def categories(*, downward: bool = False, **more: Any) -> dict[str, Any]:
    """An axis of names: of columns, slanted, or of rows that go downward."""
    return {"type": "category", **({"autorange": "reversed"} if downward else {"tickangle": -45}), **more}


@dataclass(frozen=True)
class Measure:
    """Values [rows, columns] of a map (NaN: an empty cell), and the range of their colours; diverging where it starts below 0."""

    values: np.ndarray
    label: str
    lowest: float = 0.0
    highest: float = 1.0

    @property
    def cells(self) -> list[str]:
        """Rows as `page.js` unpacks them: figures between commas, nothing where a cell is empty."""
        return [",".join("" if np.isnan(v) else f"{v:.4g}" for v in row) for row in self.values]

    @property
    def colours(self) -> list[list[Any]]:
        return _DIVERGING if self.lowest < 0 else _RISING

    def restyled(self) -> list[dict[str, Any]]:
        """What to change in a drawn map (traces, layout) to show this measure."""
        bar = {
            "coloraxis.cmin": self.lowest,
            "coloraxis.cmax": self.highest,
            "coloraxis.colorscale": self.colours,
            "coloraxis.colorbar.title.text": self.label,
        }
        return [{"z": [self.cells]}, charts.inert(bar)]


def heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    measure: Measure,
    *,
    name: str = "heat-map",
    axes: tuple[str, str] = ("module", "layer"),
    cells: list[list[Any]] | None = None,
) -> Markup:
    """A map [rows, columns]; `cells` [rows, columns] is what a click on each passes on."""
    trace = {
        "type": "heatmap",
        "z": measure.cells,
        "x": columns,
        "y": rows,
        "coloraxis": "coloraxis",
        "xgap": 1,
        "ygap": 1,
        "hovertemplate": "%{y}, %{x}: %{z:.3g}<extra></extra>",
        **({"customdata": cells} if cells else {}),
    }
    colours = {"cmin": measure.lowest, "cmax": measure.highest, "colorscale": measure.colours}
    return charts.fragment(
        [trace],
        name,
        *axes,
        height=int(np.clip(28 * len(rows) + 230, 330, 900)),
        coloraxis={**colours, "colorbar": _bar(measure.label)},
        xaxis=categories(showgrid=False),
        yaxis=categories(downward=True, showgrid=False),
    )


def cosine_matrix(cosines: np.ndarray, intervals: Sequence[str]) -> Markup:
    """Cosines between the increments of the run's intervals, three decimals each."""
    trace = {
        "type": "heatmap",
        "z": [[None if np.isnan(c) else round(c, 3) for c in row] for row in cosines.tolist()],
        "x": intervals,
        "y": intervals,
        "zmin": -1,
        "zmax": 1,
        "colorscale": _DIVERGING,
        "colorbar": _bar("cosine"),
        "hovertemplate": "%{y} and %{x}: %{z:.3f}<extra></extra>",
    }
    axes = ("interval (steps)", "interval (steps)")
    across, down = categories(), categories(downward=True)
    return charts.fragment([trace], "cosines", *axes, height=520, xaxis=across, yaxis=down)
