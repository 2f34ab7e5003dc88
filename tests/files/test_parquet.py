"""Tables are made and read as pyarrow would, without pandas."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from driftline.files.parquet import read_table, table_of, write_table

SCHEMA = pa.schema(
    {
        "name": pa.string(),
        "layer": pa.int32(),
        "count": pa.int64(),
        "share": pa.float64(),
        "counts": pa.list_(pa.int64()),
        "values": pa.list_(pa.float32()),
    },
    metadata={"steps": "0,10"},
)
ROWS: list[dict[str, Any]] = [
    {"name": "ä.β", "layer": 3, "count": 1 << 40, "share": 0.1, "counts": [1, 2], "values": np.ones(3, np.float32)},
    {"name": "", "layer": None, "count": 0, "share": float("nan"), "counts": [], "values": np.empty(0, np.float32)},
    {"name": None, "layer": -1, "count": np.int64(7), "share": None, "counts": None, "values": [0.5, float("inf")]},
]


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], ROWS * 5, []])
def test_a_table_is_what_pyarrow_makes_of_the_rows(rows: list[dict[str, Any]]) -> None:
    made, known = table_of(rows, SCHEMA), pa.Table.from_pylist(rows, schema=SCHEMA)
    made.validate(full=True)
    assert made.schema.equals(known.schema, check_metadata=True)
    assert str(made.to_pylist()) == str(known.to_pylist())  # NaN equals nothing
    assert all(a.null_count == b.null_count for a, b in zip(made.columns, known.columns, strict=True))


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(OverflowError):
        table_of([ROWS[0] | {"layer": 1 << 31}], SCHEMA)
    with pytest.raises(TypeError):
        table_of([ROWS[0] | {"counts": [0.5]}], SCHEMA)
    with pytest.raises(TypeError, match="a column of int64 is given something else"):
        table_of([ROWS[0] | {"count": 1.5}], SCHEMA)


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_table(table_of(ROWS, SCHEMA), tmp_path / "table.parquet")
    assert read_table(tmp_path / "table.parquet", ["counts", "name"]).to_pydict() == {
        "counts": [[1, 2], [], None],
        "name": ["ä.β", "", None],
    }
    with pytest.raises(ValueError, match="no column gram"):
        read_table(tmp_path / "table.parquet", ["name", "gram"])


def test_a_kernel_that_multiplies_matrices_finds_scipy_when_it_is_compiled() -> None:
    code = """
import sys
from driftline.compiled import njit
import numpy as np
assert not any(name.startswith("scipy.linalg") for name in sys.modules)
product = njit(lambda a, b: a @ b)
assert product(np.eye(2), np.eye(2)).trace() == 2
import scipy.linalg.cython_blas
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
