"""Where a figure of a tensor goes in a map of the model: layers downward, modules across."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def layer_grid(
    places: Sequence[tuple[int | None, str]], values: Sequence[Sequence[float]]
) -> tuple[list[str], list[str], list[np.ndarray]]:
    """(row names, column names, one grid [rows, columns] for each list of values).

    What lies outside the layers has a last row of its own; values that share a cell (the experts of a layer)
    are averaged, NaN left out.
    """
    layers = sorted({layer for layer, _ in places if layer is not None})
    inside = dict.fromkeys(module for layer, module in places if layer is not None)
    outside = dict.fromkeys(module for layer, module in places if layer is None)
    columns = list(dict.fromkeys([*inside, *outside]))
    rows = [str(layer) for layer in layers] + ["outside"] * bool(outside)
    grids = []
    for figures in values:
        cells: dict[tuple[int, int], list[float]] = {}
        for (layer, module), figure in zip(places, figures, strict=True):
            if figure == figure:
                row = len(layers) if layer is None else layers.index(layer)
                cells.setdefault((row, columns.index(module)), []).append(figure)
        grid = np.full((len(rows), len(columns)), np.nan)
        for cell, found in cells.items():
            grid[cell] = np.mean(found)
        grids.append(grid)
    return rows, columns, grids
