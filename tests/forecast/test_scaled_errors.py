"""Scaled errors of blup on simulated runs: where the rate falls, and where the model is true."""

from __future__ import annotations

import numpy as np
import pytest

from driftline.forecast import calibration
from driftline.forecast.observations import Observations
from driftline.linearity import null
from driftline.linearity.persistence import drift_covariance
from driftline.linearity.statistics import gram_of_increments


def run(seed: int, rate: np.ndarray) -> Observations:
    steps = np.arange(rate.size + 1) * 20
    drift = drift_covariance(steps, 200.0)
    covariance = (drift / drift[0, 0] + np.eye(rate.size)) * np.outer(rate, rate)
    increments = null.simulated_increments(covariance, 300, 1, np.random.default_rng(seed))[0]
    return Observations(steps, steps.astype(float), 0.0, {"w": gram_of_increments(increments)})


def ratios(observed: Observations) -> calibration.Ratios:
    return calibration.ratios(observed, *calibration.spread_rows(observed.clock.size))


def test_scaling_mends_what_a_falling_rate_does_to_the_ratio() -> None:
    """Of one more interval than was seen: the true squared error over the expected one, plain and scaled."""
    plain, scaled = [], []
    for seed in range(6):
        whole = run(seed, 0.1 ** (np.arange(15) / 14))
        seen = whole.only(range(15))
        factor = calibration.predicted(ratios(seen), 20.0, seen.clock, seen.clock[-1])
        assert factor is not None
        last = ratios(whole)
        ratio = float(last.log[(last.cutoff == 14) & (last.target == 15)][0])
        plain.append(ratio)
        scaled.append(ratio - factor)
    assert abs(np.mean(plain)) > 2
    assert abs(np.mean(scaled)) < 0.15


def test_the_band_of_90_percent_holds_about_so_many() -> None:
    """Over runs; one run's share scatters, as its forecasts overlap."""
    held = np.mean(
        [calibration.tested(ratios(run(seed, np.ones(14))), np.arange(15) * 20.0).mean() for seed in range(8)]
    )
    assert 0.82 <= held <= 0.98


def test_errors_are_given_only_where_the_band_is_honest() -> None:
    assert calibration.honest(np.arange(20) < 18)
    assert not calibration.honest(np.arange(20) < 16)
    assert not calibration.honest(np.ones(20, bool))
    assert not calibration.honest(np.arange(9) < 8)


def test_no_error_beyond_the_horizons_that_were_verified() -> None:
    observed = run(0, np.ones(9))
    assert calibration.standard_error(observed, float(observed.clock[-1] + 10_000)) is None
    assert calibration.predicted(ratios(observed), 10_000.0, observed.clock, observed.clock[-1]) is None


def test_a_ratio_is_predicted_from_the_same_horizon_only() -> None:
    clock = np.arange(8) * 10.0
    known = calibration.Ratios(np.array([2, 3, 2]), np.array([3, 4, 4]), np.log([2.0, 4.0, 100.0]))
    assert calibration.predicted(known, 10.0, clock, 40.0) == pytest.approx((0.7 * np.log(2) + np.log(4)) / 1.7)
    assert calibration.predicted(known, 20.0, clock, 40.0) == pytest.approx(np.log(100))
    assert calibration.predicted(known, 30.0, clock, 40.0) is None


def test_a_trend_of_the_ratio_is_followed() -> None:
    """Logarithms on a line against the cutoff are predicted by the line, whatever their weights."""
    clock = np.array([0.0, 10.0, 20.0, 30.0, 40.0, 60.0])
    known = calibration.Ratios(np.arange(1, 4), np.arange(2, 5), 1.0 - 0.05 * clock[1:4])
    assert calibration.predicted(known, 10.0, clock, 60.0) == pytest.approx(1.0 - 0.05 * 60)
