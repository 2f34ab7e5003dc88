"""The short form of benchmarks/calibration.py: no promise is broken beyond chance, but those that docs/limits.md names."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from calibrating.row import Row
from calibration import rooms, rows


@pytest.mark.slow
@pytest.mark.parametrize("room", rooms())
def test_no_promise_is_broken(room: str) -> None:
    found = list(rows(room, 60))
    assert found
    assert [row for row in found if row.broken and not row.fails] == []


def test_a_row_says_what_holds() -> None:
    """Intervals against those of Clopper and Pearson's paper for 3 of 10, and of no hit in n: 1 - .025^(1/n)."""
    assert Row("", "", 3, 10).interval == pytest.approx((0.067, 0.652), abs=0.001)
    assert Row("", "", 0, 300).interval == pytest.approx((0, 1 - 0.025 ** (1 / 300)))
    assert Row("", "", 6, 300, at_most=0.05).holds == "yes"
    assert Row("", "", 6, 300).holds == ""
    assert Row("", "", 2, 60, at_most=0.05).holds == "too few runs"
    assert Row("", "", 4, 60, at_most=0.05).holds == "cannot tell"
    assert Row("", "", 60, 300, at_most=0.05).holds == "no"
    assert Row("", "", 100, 300, at_least=0.7).broken
    assert not Row("", "", 270, 300, at_least=0.85, at_most=0.95).broken
