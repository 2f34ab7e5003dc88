"""Where in the model the run is straight: a map of the tensors with a switch, and a section for the one chosen."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pyarrow.parquet as pq

from driftline.linearity import skill, statistics
from driftline.report import charts
from driftline.report.grid import layer_grid
from driftline.report.page import embedded, section, switch, table, text

_COLUMNS = [
    "name",
    "layer",
    "module",
    "parameters",
    "measured",
    "r2_median",
    "r2_histogram",
    "update_norm",
    "gram",
    "sample_values",
]
_SECTIONS = 1200  # tensors with a section of their own, so that the page stays small
_POINTS, _INTERVALS, _SAMPLES, _BINS = 24, 16, 4, 50  # of such a section


def read(folder: Path, clock: np.ndarray, line: str) -> list[dict[str, Any]]:
    """The tensors of `tensors.parquet`, each with the skill of `line` and with what its section shows, in bounded memory."""
    tensors: list[dict[str, Any]] = []
    for batch in pq.ParquetFile(folder / "tensors.parquet").iter_batches(64, columns=_COLUMNS):
        grams = batch.column("gram").flatten().to_numpy().reshape(-1, clock.size, clock.size)
        held = skill.held_out_skill(grams, clock)[line]
        rows = batch.drop_columns(["gram"]).to_pylist()
        for row, gram, figure in zip(rows, grams, held, strict=True):
            row |= {"skill": float(figure), "norm": row.pop("update_norm")[-1]}
            shown = {"r2_histogram": row.pop("r2_histogram"), "sample_values": row.pop("sample_values")}
            row["section"] = _section(row, gram, clock, **shown) if len(tensors) < _SECTIONS else None
            tensors.append(row)
    return tensors


def section_of(
    tensors: Sequence[dict[str, Any]], steps: Sequence[int], clock: np.ndarray, x: str, null: np.ndarray
) -> str:
    """The map, the switch, and the section of the chosen tensor; `null` is the R² histogram of the driftless walk."""
    measures = {
        "median R²": ([np.nan if t["r2_median"] is None else t["r2_median"] for t in tensors], 0.0, 1.0),
        "skill": ([t["skill"] for t in tensors], -1.0, 1.0),
        "norm of the update": ([t["norm"] for t in tensors], 0.0, max(t["norm"] for t in tensors) or 1.0),
    }
    drawn, views = "", {}
    for name, members in (
        ("heat-map", [t["layer"] is not None for t in tensors]),
        ("outside", [t["layer"] is None for t in tensors]),
    ):
        chosen = [i for i, member in enumerate(members) if member]
        if not chosen:
            continue
        places = [(tensors[i]["layer"], tensors[i]["module"]) for i in chosen]
        rows, columns, grids = layer_grid(places, [[values[i] for i in chosen] for values, *_ in measures.values()])
        first = dict(reversed(list(zip(places, chosen, strict=True))))
        cells = [[first.get((None if row == "outside" else int(row), column)) for column in columns] for row in rows]
        if name == "outside":  # beside the layers: one column
            rows, columns, grids, cells = (
                columns,
                [" "],
                [grid.T for grid in grids],
                [list(c) for c in zip(*cells, strict=True)],
            )
        shown = [
            charts.Measure(grid, label, low, high)
            for grid, (label, (_, low, high)) in zip(grids, measures.items(), strict=True)
        ]
        axes = ("module", "layer") if name == "heat-map" else ("in no layer", "")
        width = "wide" if name == "heat-map" else "narrow"
        drawn += (
            f'<div class="{width}">{charts.heat_map(rows, columns, shown[0], name=name, axes=axes, cells=cells)}</div>'
        )
        views[name] = [measure.restyled() for measure in shown]
    behind = table(
        ["tensor", "parameters", "measured", "median R²", "skill", "norm of the update"],
        [
            (t["name"], t["parameters"], t["measured"], t["r2_median"], t["skill"], t["norm"])
            for t in tensors[:_SECTIONS]
        ],
    ) + (
        f'<p class="aid">The other {len(tensors) - _SECTIONS:,} tensors are in tensors.parquet.</p>'
        if len(tensors) > _SECTIONS
        else ""
    )
    return section(
        "Where in the model the run is straight",
        "One cell for each tensor: layers downward, modules across, what is in no layer beside them. Skill: of a line on the "
        "last quarter of the checkpoints, blue better than holding, orange worse. Click a cell for its tensor.",
        switch("measure", "what the colours show", list(measures), views) + f'<div class="pair">{drawn}</div>' + _chosen(tensors, steps, clock, x, null),
        behind,
    )  # fmt: skip


def _section(
    row: dict[str, Any], gram: np.ndarray, clock: np.ndarray, r2_histogram: list[int], sample_values: list[float]
) -> dict[str, Any]:
    """Small numbers only: per mille of each bin, three digits of a weight's change, hundredths of a cosine."""
    T = clock.size
    counts = np.array(r2_histogram).reshape(_BINS, -1).sum(1)
    samples = np.array(sample_values, np.float64).reshape(-1, T)[:_SAMPLES]
    samples = samples - samples[:, :1]
    lines = [np.polyval(np.polyfit(clock, series, 1), clock[[0, -1]]) for series in samples]
    cosines = statistics.cosines(statistics.increments_gram(statistics.rebased(gram, _thinned(T, _INTERVALS + 1))))
    return {
        "name": row["name"],
        "about": f"{row['parameters']:,} parameters, {row['measured']:,} of them measured",
        "r2": np.round(1000 * counts / max(counts.sum(), 1)).astype(int).tolist(),
        "samples": [_digits(series[_thinned(T, _POINTS)]) for series in samples],
        "lines": [_digits(line) for line in lines],
        "cosines": [[None if np.isnan(c) else round(100 * c) for c in line] for line in cosines.tolist()],
    }


def _thinned(T: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, T - 1, min(T, most)).round().astype(int))


def _digits(values: np.ndarray) -> list[float]:
    return [float(f"{value:.3g}") for value in values]


def _chosen(
    tensors: Sequence[dict[str, Any]], steps: Sequence[int], clock: np.ndarray, x: str, null: np.ndarray
) -> str:
    """The section that `page.js` fills: its charts without their data, and the data of every tensor."""
    sections = [t["section"] for t in tensors if t["section"]]
    options = "".join(f'<option value="{place}">{text(each["name"])}</option>' for place, each in enumerate(sections))
    ends = [steps[i] for i in _thinned(clock.size, _INTERVALS + 1)]
    data = {
        "tensors": sections,
        "clock": clock[_thinned(clock.size, _POINTS)].tolist(),
        "intervals": [f"{a}–{b}" for a, b in itertools.pairwise(ends)],
        "null": (1000 * null.reshape(_BINS, -1).sum(1)).round(1).tolist(),
        "colours": charts.LINES,
        "charts": {name: figure.to_plotly_json() for name, figure in _frames(x)},
    }
    drawn = "".join(
        f'<div><h3>{text(title)}</h3><p class="aid">{text(aid)}</p><div class="chart" id="tensor-{name}"></div></div>'
        for name, title, aid in (
            ("r2", "R² of its parameters", "Bars: this tensor. Line: the driftless walk."),
            ("samples", "Some of its weights", "Changed weights drawn at random, as the change since the first checkpoint, with their lines."),
            ("cosines", "Does it keep its direction?", "Cosine between its changes over any two intervals: blue the same way, orange back."),
        )
    )  # fmt: skip
    return (
        f'<div class="tensor" id="tensor"><h3><label>Tensor <select id="tensor-choice">{options}</select></label></h3>'
        f'<p class="aid" id="tensor-about"></p><div class="pair">{drawn}</div>'
        '<details><summary>The numbers</summary><div class="scroll" id="tensor-shares"></div>'
        f'<div class="scroll" id="tensor-numbers"></div></details></div>{embedded("tensors", data)}'
    )


def _frames(x: str) -> Iterator[tuple[str, go.Figure]]:
    shares = charts.styled(go.Figure(), "R² of its straight line (0 to 1)", "share, per bin of 0.02", bargap=0)
    yield "r2", shares.update_yaxes(tickformat=".0%", rangemode="tozero")
    yield "samples", charts.styled(go.Figure(), x, "change of the weight", showlegend=False)
    cosines = charts.styled(go.Figure(), "interval (steps)", "interval (steps)", coloraxis=charts.COSINES)
    cosines.update_xaxes(type="category", tickangle=-45, showgrid=False)
    cosines.update_yaxes(type="category", autorange="reversed", showgrid=False)
    yield "cosines", cosines
