"""Tables in parquet files, whatever their folder is called: pyarrow itself takes no path that is not UTF-8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from driftline.files.regular import open_regular


def read_table(path: Path, **options: Any) -> pa.Table:
    """A table, or those of its columns that are asked for; raises `OSError` and pyarrow's own errors."""
    with open_regular(path) as file:
        return pq.read_table(file, **options)


def columns_of(path: Path) -> list[str]:
    """The names of its columns; raises as `read_table`."""
    with open_regular(path) as file:
        return pq.read_schema(file).names


def write_table(table: pa.Table, path: Path, **options: Any) -> None:
    with open_regular(path, "wb") as file:
        pq.write_table(table, file, compression="zstd", **options)
