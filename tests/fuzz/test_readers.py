"""Short forms of the fuzz targets (`python tests/fuzz/readers.py` and `rows.py` have 100,000 cases, `folders.py` 10,000), each in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("target", "cases"),
    [
        ("readers.py", 300),
        ("rows.py", 300),
        pytest.param("readers.py", 4_000, marks=[pytest.mark.slow]),
        pytest.param("rows.py", 4_000, marks=[pytest.mark.slow]),
        pytest.param("folders.py", 400, marks=[pytest.mark.slow]),
    ],
)
def test_nothing_mutated_crashes_hangs_or_is_read_outside_its_folder(target: str, cases: int) -> None:
    script = Path(__file__).with_name(target)
    result = subprocess.run(
        [sys.executable, str(script), "--cases", str(cases), "--seed", str(cases)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{cases:,} cases" in result.stdout
