"""Quantiles of Student's t against scipy's."""

import pytest

from driftline.linearity.student import student


@pytest.mark.parametrize("level", [0.9, 0.95, 0.975])
@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 6, 11, 50, 1000])
def test_quantiles_are_scipys(level: float, freedom: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert student(level, freedom) == pytest.approx(stats.t.ppf(level, freedom), rel=1e-9)


def test_of_many_degrees_of_freedom_it_is_the_normal() -> None:
    assert student(0.95, 5000) == pytest.approx(1.645, abs=1e-3)
