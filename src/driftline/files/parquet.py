"""Tables in parquet files, whatever their folder is called: pyarrow itself takes no path that is not UTF-8.

`pa.array` and `pq.read_table` import pandas wherever it is installed, which takes longer than most analyses of a small
run. So tables are made of numpy's arrays by their buffers, and read by `ParquetFile`: both without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from driftline.files.regular import open_regular

_NUMBERS = {pa.from_numpy_dtype(name): np.dtype(name) for name in ("int32", "int64", "float32", "float64")}


def table_of(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """A table of rows by the schema's names: of numbers, texts, and lists of numbers; None is null."""
    listed = list(rows)
    return pa.Table.from_arrays([_array([row[f.name] for row in listed], f.type) for f in schema], schema=schema)


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    missing = [value is None for value in values]
    mask = pa.py_buffer(np.packbits(np.logical_not(missing), bitorder="little")) if any(missing) else None
    if kind in _NUMBERS:
        given = [0 if value is None else value for value in values]
        if given and not np.can_cast(np.asarray(given).dtype, _NUMBERS[kind], "same_kind"):
            raise TypeError(f"a column of {kind} is given something else")
        numbers = np.array(given, _NUMBERS[kind])
        return pa.Array.from_buffers(kind, len(values), [mask, pa.py_buffer(numbers)])
    if kind == pa.string():
        texts = [b"" if value is None else value.encode() for value in values]
        return pa.Array.from_buffers(kind, len(values), [mask, _offsets(texts), pa.py_buffer(b"".join(texts))])
    lists = [() if value is None else value for value in values]
    filled = [np.empty(0, np.int8), *(part for part in lists if len(part))]  # an empty list would be one of floats
    items = np.concatenate(filled, dtype=_NUMBERS[kind.value_type], casting="same_kind")
    held = pa.Array.from_buffers(kind.value_type, items.size, [None, pa.py_buffer(items)])
    return pa.Array.from_buffers(kind, len(values), [mask, _offsets(lists)], children=[held])


def _offsets(parts: Sequence[Any]) -> pa.Buffer:
    """Where each part starts, and the last one ends."""
    return pa.py_buffer(np.cumsum([0, *map(len, parts)]).astype(np.int32))


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A table, or those of its columns that are asked for; raises `OSError`, `ValueError` and pyarrow's own errors."""
    with open_regular(path) as file:
        table = pq.ParquetFile(file).read(columns)
    if missing := set(columns or ()) - set(table.column_names):
        raise ValueError(f"no column {', '.join(sorted(missing))}")
    return table


def columns_of(path: Path) -> list[str]:
    """The names of its columns; raises as `read_table`."""
    with open_regular(path) as file:
        return pq.read_schema(file).names


def write_table(table: pa.Table, path: Path, **options: Any) -> None:
    with open_regular(path, "wb") as file:
        pq.write_table(table, file, compression="zstd", **options)
