"""Kriging: its two limits, its error, and that the likelihood finds the simulated process."""

import numpy as np

from driftline.forecast import gaussian
from driftline.linearity import skill
from driftline.linearity.persistence import Fit

CLOCK = np.array([0.0, 10.0, 25.0, 30.0, 60.0])
STRAIGHT = 1e15  # a persistence length that no run reaches


def test_with_walk_noise_only_it_is_a_shrunk_two_point_line_from_the_last_checkpoint() -> None:
    drift, walk, target = 0.3, 2.0, 85.0
    prediction = gaussian.predict(CLOCK, Fit(STRAIGHT, np.array([drift, walk, 0.0]), 0.0), target, beta1=0.0)
    span = CLOCK[-1] - CLOCK[0]
    shrink = drift * span / (drift * span + walk)
    line = skill.hold(CLOCK, target) + shrink * (skill.two_point(CLOCK, target) - skill.hold(CLOCK, target))
    np.testing.assert_allclose(prediction.coefficients, line, atol=1e-5)
    ahead = target - CLOCK[-1]
    velocity_variance = drift * walk / (drift * span + walk)
    np.testing.assert_allclose(prediction.expected_error, ahead**2 * velocity_variance + ahead * walk, rtol=1e-4)


def test_with_independent_noise_only_it_is_least_squares() -> None:
    for target in (75.0, 120.0):
        prediction = gaussian.predict(CLOCK, Fit(STRAIGHT, np.array([1e2, 0.0, 1.0]), 0.0), target, beta1=0.0)
        np.testing.assert_allclose(prediction.coefficients, skill.least_squares(CLOCK, target), atol=1e-3)


def test_a_short_persistence_length_forecasts_less_far() -> None:
    """The drift is forgotten: far ahead, the forecast stops moving."""
    fit = Fit(20.0, np.array([1.0, 0.01, 0.0]), 0.0)
    moves = [1 - gaussian.predict(CLOCK, fit, target, 0.0).coefficients[-1] for target in (80.0, 160.0, 320.0, 640.0)]
    assert abs(moves[-1] - moves[-2]) < 0.01 * abs(moves[0])


def test_the_likelihood_finds_the_variances_and_the_expected_error_is_the_true_one(rng: np.random.Generator) -> None:
    """Ten thousand parameters of known drift, walk and noise: fitted variances within 15 %, and the mean squared
    error of the forecast within 10 % of the one expected."""
    clock, target, n = np.arange(0.0, 200.0, 10.0), 230.0, 10_000
    times = np.append(clock, target)
    velocity, walk = 0.05 * rng.standard_normal(n), np.zeros((times.size, n))
    walk[1:] = np.cumsum(0.3 * np.sqrt(np.diff(times))[:, None] * rng.standard_normal((times.size - 1, n)), 0)
    weights = np.outer(times, velocity) + walk + 0.5 * rng.standard_normal((times.size, n))
    deltas = weights[:-1] - weights[0]
    gram = deltas @ deltas.T
    fit = gaussian.fit(clock, gram, 0.0)
    assert fit is not None
    assert fit.length > 500
    np.testing.assert_allclose(fit.variances[1] / n, 0.09, rtol=0.15)
    np.testing.assert_allclose(fit.variances[2] / n, 0.25, rtol=0.15)
    prediction = gaussian.predict(clock, fit, target, 0.0)
    true = ((prediction.coefficients @ weights[:-1] - weights[-1]) ** 2).sum()
    np.testing.assert_allclose(true, prediction.expected_error, rtol=0.1)
    for other in (skill.hold, skill.two_point, skill.least_squares):
        assert true < ((other(clock, target) @ weights[:-1] - weights[-1]) ** 2).sum()


def test_a_run_too_short_to_fit_is_held() -> None:
    np.testing.assert_array_equal(gaussian.blup(np.arange(3.0), np.eye(3), 5.0), [0, 0, 1])
    np.testing.assert_array_equal(gaussian.blup(np.arange(6.0), np.zeros((6, 6)), 9.0), np.eye(6)[-1])
