"""Short forms of the fuzz target (the long one, of 100,000 cases, is `python tests/fuzz/readers.py`), in a process of its own, so that its memory is its own too."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("cases", [1_000, pytest.param(10_000, marks=[pytest.mark.slow])])
def test_no_mutated_run_crashes_hangs_or_is_read_outside_its_folder(cases: int) -> None:
    script = Path(__file__).with_name("readers.py")
    result = subprocess.run(
        [sys.executable, str(script), "--cases", str(cases), "--seed", str(cases)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{cases:,} cases" in result.stdout
