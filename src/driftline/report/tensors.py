"""Where in the model the run is straight: a map of the tensors with a switch, and a section for the one chosen."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
from markupsafe import Markup

from driftline.files.regular import open_regular
from driftline.linearity import skill, statistics
from driftline.report import charts, maps, page
from driftline.report.grid import layer_grid

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
_BYTES, _PER_CHECKPOINT, _FEWEST = 340_000, 300, 40_000  # of sections in a page, less in that of a long run
_POINTS, _INTERVALS, _SAMPLES, _BINS = 24, 16, 4, 50  # of such a section
_FIGURES = {
    "parameters": "parameters",
    "measured": "measured",
    "median R²": "r2_median",
    "skill": "skill",
    "norm of the update": "norm",
}  # of a tensor, in the table: what they are called, and their keys
_MEASURES = {"median R²": (0.0, 1.0), "skill": (-1.0, 1.0), "norm of the update": (0.0, None)}  # range of the colours


def read(folder: Path, clock: np.ndarray, line: str) -> list[dict[str, Any]]:
    """The tensors of `tensors.parquet`, each with the skill of `line` and with what its section shows, in bounded memory.

    The tensors after those whose sections fill the page have None for theirs.
    """
    tensors: list[dict[str, Any]] = []
    left = max(_BYTES - _PER_CHECKPOINT * clock.size, _FEWEST)
    with open_regular(folder / "tensors.parquet") as file:
        for batch in pq.ParquetFile(file).iter_batches(64, columns=_COLUMNS):
            # not to_numpy, which imports pandas
            grams = np.from_dlpack(batch.column("gram").flatten()).reshape(-1, clock.size, clock.size)
            held = skill.held_out_skill(grams, clock)[line]
            rows = batch.drop_columns(["gram"]).to_pylist()
            for row, gram, figure in zip(rows, grams, held, strict=True):
                row |= {"skill": float(figure), "norm": row.pop("update_norm")[-1]}
                shown = {"r2_histogram": row.pop("r2_histogram"), "sample_values": row.pop("sample_values")}
                row["section"] = _section(row, gram, clock, **shown) if left > 0 else None
                left -= len(msgspec.json.encode(row["section"]))
                tensors.append(row)
    return tensors


def section_of(
    tensors: Sequence[dict[str, Any]], steps: Sequence[int], clock: np.ndarray, x: str, null: np.ndarray
) -> Markup:
    """The map, the switch, and the section of the chosen tensor; `null` is the R² histogram of the driftless walk."""
    inside = [place for place, tensor in enumerate(tensors) if tensor["layer"] is not None]
    outside = [place for place, tensor in enumerate(tensors) if tensor["layer"] is None]
    drawn, views = [], {}
    for name, chosen, width in (("heat-map", inside, "wide"), ("outside", outside, "narrow")):
        if chosen:
            chart, views[name] = _map(name, tensors, chosen)
            drawn.append((width, chart))
    switch = page.switch("measure", "what the colours show", list(_MEASURES), views)
    pair = page.render("maps.html", maps=drawn)
    return page.section(
        "Where in the model the run is straight",
        "One cell for each tensor: layers downward, modules across, what is in no layer beside them. Skill: of a line on the "
        "last quarter of the checkpoints, blue better than holding, orange worse. Click a cell for its tensor.",
        page.joined([switch, pair, _chosen(tensors, steps, clock, x, null)]),
        _table(tensors),
    )


def _map(name: str, tensors: Sequence[dict[str, Any]], chosen: Sequence[int]) -> tuple[Markup, list[Any]]:
    """A map of the chosen tensors (their places), and what the switch changes in it for each measure."""
    places = [(tensors[i]["layer"], tensors[i]["module"]) for i in chosen]
    values = [
        [np.nan if tensors[i]["r2_median"] is None else tensors[i]["r2_median"] for i in chosen],
        [tensors[i]["skill"] for i in chosen],
        [tensors[i]["norm"] for i in chosen],
    ]
    rows, columns, grids = layer_grid(places, values)
    first = dict(reversed(list(zip(places, chosen, strict=True))))
    cells = [[first.get((None if row == "outside" else int(row), column)) for column in columns] for row in rows]
    axes = ("module", "layer")
    if name == "outside":  # beside the layers: one column
        rows, columns, axes = columns, [" "], ("in no layer", "")
        grids, cells = [grid.T for grid in grids], [list(column) for column in zip(*cells, strict=True)]
    largest = max(tensor["norm"] for tensor in tensors) or 1.0
    shown = [
        maps.Measure(grid, label, low, largest if high is None else high)
        for grid, (label, (low, high)) in zip(grids, _MEASURES.items(), strict=True)
    ]
    chart = maps.heat_map(rows, columns, shown[0], name=name, axes=axes, cells=cells)
    return chart, [measure.restyled() for measure in shown]


def _table(tensors: Sequence[dict[str, Any]]) -> Markup:
    """The table that `page.js` fills with the figures of the tensors that have a section."""
    rest = sum(not tensor["section"] for tensor in tensors)
    said = [page.aid(f"The other {rest:,} tensors are in tensors.parquet.")] if rest else []
    return page.joined([page.render("filled.html", name="tensor-table"), *said])


def _section(
    row: dict[str, Any], gram: np.ndarray, clock: np.ndarray, r2_histogram: list[int], sample_values: list[float]
) -> dict[str, Any]:
    """Small numbers only, as `page.js` unpacks them.

    Per mille of each bin; a weight's change as its largest and 16-bit shares of that; hundredths of the cosines
    from the diagonal on, row by row, -128 where there is no number.
    """
    T = clock.size
    counts = np.array(r2_histogram).reshape(_BINS, -1).sum(1)
    samples = np.array(sample_values, np.float64).reshape(-1, T)[:_SAMPLES]
    samples = samples - samples[:, :1]
    lines = [np.polyval(np.polyfit(clock, series, 1), clock[[0, -1]]) for series in samples]
    cosines = statistics.cosines(statistics.increments_gram(statistics.rebased(gram, thinned(T, _INTERVALS + 1))))
    upper = cosines[np.triu_indices(len(cosines))]
    return {
        "name": row["name"],
        "figures": [
            page.quantity(row[key]) if key == "norm" else page.number(row[key], 3) for key in _FIGURES.values()
        ],
        "r2": np.round(1000 * counts / max(counts.sum(), 1)).astype(int).tolist(),
        "samples": [_packed(series[thinned(T, _POINTS)]) for series in samples],
        "lines": [_digits(line) for line in lines],
        "cosines": _base64(np.where(np.isnan(upper), -128, np.rint(100 * upper)).astype(np.int8)),
    }


def thinned(T: int, most: int) -> np.ndarray:
    """At most that many of T places, evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, T - 1, min(T, most)).round().astype(int))


def _digits(values: np.ndarray) -> list[float]:
    return [float(f"{value:.3g}") for value in values]


def _packed(series: np.ndarray) -> tuple[float, str]:
    """(the largest magnitude, 16-bit shares of it)."""
    largest = float(np.abs(series).max())
    shares = np.rint(32767 * series / largest) if 0 < largest < np.inf else np.zeros(series.size)
    return float(f"{largest:.5g}"), _base64(shares.astype("<i2"))


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode()


def _chosen(
    tensors: Sequence[dict[str, Any]], steps: Sequence[int], clock: np.ndarray, x: str, null: np.ndarray
) -> Markup:
    """The section that `page.js` fills: its charts without their data, and the data of every tensor."""
    sections = [t["section"] for t in tensors if t["section"]]
    ends = [steps[i] for i in thinned(clock.size, _INTERVALS + 1)]
    data = {
        "tensors": sections,
        "clock": clock[thinned(clock.size, _POINTS)].tolist(),
        "intervals": [f"{a}–{b}" for a, b in itertools.pairwise(ends)],
        "null": (1000 * null.reshape(_BINS, -1).sum(1)).round(1).tolist(),
        "colours": charts.LINES,
        "head": ["tensor", *_FIGURES],
        "charts": {name: {"layout": charts.inert(layout)} for name, layout in _layouts(x).items()},
    }
    drawn = (
        ("r2", "R² of its parameters", "Bars: this tensor. Line: the driftless walk."),
        (
            "samples",
            "Some of its weights",
            "Changed weights drawn at random, as the change since the first checkpoint, with their lines.",
        ),
        (
            "cosines",
            "Does it keep its direction?",
            "Cosine between its changes over any two intervals: blue the same way, orange back.",
        ),
    )
    return page.render("tensor.html", charts=drawn, data=page.embedded("tensors", data))


def _layouts(x: str) -> dict[str, dict[str, Any]]:
    """Of the charts of a chosen tensor."""
    shares = {"tickformat": ".0%", "rangemode": "tozero"}
    across, down = maps.categories(showgrid=False), maps.categories(downward=True, showgrid=False)
    interval = ("interval (steps)", "interval (steps)")
    return {
        "r2": charts.layout("R² of its straight line (0 to 1)", "share, per bin of 0.02", bargap=0, yaxis=shares),
        "samples": charts.layout(x, "change of the weight", showlegend=False),
        "cosines": charts.layout(*interval, coloraxis=maps.COSINES, xaxis=across, yaxis=down),
    }
