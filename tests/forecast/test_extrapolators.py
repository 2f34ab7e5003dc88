"""Coefficient vectors against the same forecasts computed from weights."""

import numpy as np
import pytest

from driftline.errors import InputError
from driftline.forecast.extrapolators import method_named, methods, reconstruction

CLOCK = np.array([0.0, 10.0, 30.0, 35.0, 60.0, 100.0])


@pytest.fixture
def weights(rng: np.random.Generator) -> np.ndarray:
    drift, walk = rng.standard_normal(400), np.cumsum(rng.standard_normal((CLOCK.size, 400)), 0)
    return rng.standard_normal(400) + np.outer(CLOCK, drift) / 20 + walk


def gram_of(weights: np.ndarray) -> np.ndarray:
    deltas = weights - weights[0]
    return deltas @ deltas.T


@pytest.mark.parametrize("name", methods())
def test_coefficients_sum_to_one_and_rows_are_targets(name: str, weights: np.ndarray) -> None:
    """So that a shift of all weights shifts the forecast with them."""
    method, gram = method_named(name), gram_of(weights)
    several = method.extrapolate(CLOCK, gram, np.array([120.0, 150.0]))
    assert several.shape == (2, CLOCK.size)
    np.testing.assert_allclose(several.sum(1), 1, atol=1e-9)
    np.testing.assert_allclose(several[1], method.extrapolate(CLOCK, gram, 150.0), atol=1e-9)


def test_lines_are_those_of_a_regression(weights: np.ndarray) -> None:
    slope, intercept = np.polyfit(CLOCK, weights, 1)
    target = 130.0
    for name, expected in {
        "hold": weights[-1],
        "mean": weights.mean(0),
        "two-point": weights[0] + target / 100 * (weights[-1] - weights[0]),
        "least-squares": slope * target + intercept,
        "anchored": weights[-1] + slope * (target - CLOCK[-1]),
    }.items():
        a = method_named(name).extrapolate(CLOCK, gram_of(weights), target)
        np.testing.assert_allclose(a @ weights, expected, rtol=1e-9, atol=1e-9, err_msg=name)


def test_ema_forgets_by_a_constant_factor(weights: np.ndarray) -> None:
    a = method_named("ema").extrapolate(np.arange(5.0), np.zeros((5, 5)), 9.0)
    np.testing.assert_allclose(a[1:] / a[:-1], np.exp(0.5))


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_relex_is_a_line_through_the_coefficients_of_the_svd(weights: np.ndarray, rank: int) -> None:
    deltas, target = weights - weights[0], 140.0
    u, sigma, v = np.linalg.svd(deltas, full_matrices=False)
    coefficients = (u * sigma)[:, :rank]
    slope, intercept = np.polyfit(CLOCK, coefficients, 1)
    expected = weights[0] + (slope * target + intercept) @ v[:rank]
    a = method_named("relex", rank=rank).extrapolate(CLOCK, gram_of(weights), target)
    np.testing.assert_allclose(a @ weights, expected, rtol=1e-7, atol=1e-7)
    for row in range(CLOCK.size):
        rebuilt = reconstruction(gram_of(weights), row, rank) @ weights
        np.testing.assert_allclose(rebuilt, weights[0] + coefficients[row] @ v[:rank], rtol=1e-7, atol=1e-7)


def test_full_rank_reconstruction_is_the_checkpoint(weights: np.ndarray) -> None:
    np.testing.assert_allclose(reconstruction(gram_of(weights), 3, CLOCK.size) @ weights, weights[3], atol=1e-8)


def test_damped_goes_all_the_way_on_a_line_and_nowhere_on_a_run_that_turns_back(rng: np.random.Generator) -> None:
    """Factor 1 on a straight line; on one that goes out and comes back, no slope forecasts anything."""
    line = np.outer(CLOCK, rng.standard_normal(50))
    damped, two_point = method_named("damped"), method_named("two-point")
    np.testing.assert_allclose(
        damped.extrapolate(CLOCK, gram_of(line), 150.0), two_point.extrapolate(CLOCK, gram_of(line), 150.0), atol=1e-9
    )
    back = np.outer([0, 1, 0, 1, 0, 1], rng.standard_normal(50))
    a = damped.extrapolate(CLOCK, gram_of(back), 150.0)
    assert abs(a[0]) < 0.1 * abs(two_point.extrapolate(CLOCK, gram_of(back), 150.0)[0])


def test_an_unknown_method_is_refused_with_near_misses() -> None:
    with pytest.raises(InputError, match="'twopoint' is unknown: did you mean two-point"):
        method_named("twopoint")
    with pytest.raises(InputError, match="choose one of auto, hold"):
        method_named("zzz")
