"""`tensors.parquet`: a row for each tensor, written as tensors are measured, in bounded memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from driftline._version import __version__
from driftline.files.parquet import table_of
from driftline.files.regular import open_regular
from driftline.linearity import figures
from driftline.linearity.names import layer_and_module
from driftline.linearity.scan import TensorScan

_ROW_GROUP_BYTES = 16 << 20
_COUNTS, _FLOATS = pa.list_(pa.int64()), pa.list_(pa.float64())
_COLUMNS: dict[str, pa.DataType] = {
    "name": pa.string(),
    "layer": pa.int32(),
    "module": pa.string(),
    "shape": _COUNTS,
    "dtype": pa.string(),
    "parameters": pa.int64(),
    "measured": pa.int64(),
    "unchanged": pa.int64(),
    "filtered": pa.int64(),
    "r2_mean": pa.float64(),
    "r2_median": pa.float64(),
    "r2_q25": pa.float64(),
    "r2_q75": pa.float64(),
    "r2_share_above_0.7": pa.float64(),
    "r2_histogram": _COUNTS,
    "distinct_values": _COUNTS,
    "mean_abs_slope": pa.float64(),
    "rms_slope": pa.float64(),
    "largest_range": pa.float64(),
    "update_norm": _FLOATS,
    "unchanged_per_interval": _COUNTS,
    "gram": _FLOATS,
    "along_start": _FLOATS,
    "start_square": pa.float64(),
    "sample_positions": _COUNTS,
    "sample_values": pa.list_(pa.float32()),
}


class TensorTable:
    """The file, open to be written; use it as a context manager."""

    def __init__(self, path: Path, steps: tuple[int, ...], filter: str) -> None:
        metadata = {"driftline": __version__, "filter": filter, "steps": ",".join(map(str, steps))}
        self._schema = pa.schema(list(_COLUMNS.items()), metadata=metadata)
        self._file = open_regular(path, "wb")  # pyarrow takes no path that is not UTF-8
        self._writer = pq.ParquetWriter(self._file, self._schema, compression="zstd")
        self._filter = filter
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def add(self, tensor: TensorScan) -> None:
        population = tensor.population(self._filter)
        layer, module = layer_and_module(tensor.name)
        r2 = figures.shares_of(population)
        values = (
            tensor.name,
            layer,
            module,
            list(tensor.shape),
            tensor.dtype,
            tensor.size,
            population.count,
            tensor.unchanged,
            tensor.populations[0].count - population.count,
            r2.mean,
            r2.median,
            r2.q25,
            r2.q75,
            r2.share_above_07,
            figures.coarse(population),
            tensor.distinct,
            tensor.mean_abs_slope,
            tensor.rms_slope,
            tensor.largest_range,
            np.sqrt(np.clip(np.diag(tensor.gram), 0, None)),
            tensor.kept,
            tensor.gram.ravel(),
            tensor.along_start,
            tensor.start_square,
            tensor.positions,
            tensor.sample.ravel(),
        )
        self._rows.append(dict(zip(_COLUMNS, values, strict=True)))
        self._bytes += tensor.gram.nbytes + tensor.sample.nbytes
        if self._bytes > _ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(table_of(self._rows, self._schema))
        self._rows, self._bytes = [], 0

    def __enter__(self) -> TensorTable:
        return self

    def __exit__(self, kind: type | None, *rest: object) -> None:
        with self._file, self._writer:
            if kind is None:
                self._flush()
        self._file.close()
