"""Statistics of the Gram against direct computation on small trajectories, and against simulated walks."""

import numpy as np
import pytest
from scipy import stats

from driftline.linearity import skill, statistics


@pytest.fixture
def W(rng: np.random.Generator) -> np.ndarray:
    """A short trajectory [T, N]."""
    return np.cumsum(rng.standard_normal((9, 400)) + 0.4 * rng.standard_normal(400), 0)


CLOCK = np.array([0.0, 2, 5, 6, 9, 10, 14, 15, 21])


def gram(W: np.ndarray) -> np.ndarray:
    return (W - W[0]) @ (W - W[0]).T


def test_increments_and_back(W: np.ndarray) -> None:
    C = statistics.increments_gram(gram(W))
    np.testing.assert_allclose(C, np.diff(W, axis=0) @ np.diff(W, axis=0).T, rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(statistics.gram_of_increments(C), gram(W), rtol=1e-9, atol=1e-8)


def test_cosines(W: np.ndarray) -> None:
    I = np.diff(W, axis=0)
    expected = [[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a in I] for b in I]
    np.testing.assert_allclose(statistics.cosines(statistics.increments_gram(gram(W))), expected, atol=1e-10)


def test_separated_pairs_lie_further_apart_than_memory() -> None:
    steps = np.arange(0, 55, 5)
    memory = statistics.optimizer_memory(0.9)
    assert memory == pytest.approx(28.4, abs=0.1)
    k, l = statistics.separated_pairs(steps, memory)
    assert k.size > 0
    assert (steps[l] - steps[k + 1] >= memory).all()
    k, l = statistics.separated_pairs(steps, 0.0)
    assert (l - k >= 2).all()
    assert k.size == 36  # all pairs of 10 increments but the 9 neighbouring ones
    assert statistics.separated_pairs(np.arange(3), 0.0)[0].size == 0


def test_growth_exponent_against_scipy(W: np.ndarray) -> None:
    exponent, error = statistics.growth_exponent(gram(W), CLOCK)
    fit = stats.linregress(np.log(CLOCK[1:]), np.log(np.linalg.norm(W - W[0], axis=1)[1:]))
    assert exponent == pytest.approx(fit.slope)
    assert error == pytest.approx(fit.stderr)


def test_growth_exponent_of_a_walk_is_a_half_and_of_a_line_one(rng: np.random.Generator) -> None:
    t = np.arange(30.0)
    walk = np.cumsum(rng.standard_normal((30, 50_000)), 0)
    assert statistics.growth_exponent(gram(walk), t)[0] == pytest.approx(0.5, abs=0.01)
    line = t[:, None] * rng.standard_normal(1000)
    assert statistics.growth_exponent(gram(line), t)[0] == pytest.approx(1.0)


@pytest.mark.parametrize("ratio", [0.3, 1.0])
def test_drift_and_noise_are_recovered(rng: np.random.Generator, ratio: float) -> None:
    """Drift / noise 1 gives increments' cosine 1/2, .3 gives .083: r² / (1 + r²)."""
    N, t = 100_000, np.arange(15.0)
    W = np.cumsum(rng.standard_normal((15, N)) + ratio * rng.standard_normal(N), 0)
    pairs = statistics.separated_pairs(t, 0.0)
    drift, noise_to_drift = statistics.drift_and_noise(gram(W), t, pairs)
    assert drift == pytest.approx(ratio * np.sqrt(N), rel=0.02)
    assert noise_to_drift == pytest.approx(1 / ratio, rel=0.02)
    cosine, _ = statistics.mean_cosine(statistics.increments_gram(gram(W)), pairs)
    assert cosine == pytest.approx(ratio**2 / (1 + ratio**2), abs=0.01)


def test_rank_one_is_the_svd(W: np.ndarray) -> None:
    D = W - W[0]
    U, s, _ = np.linalg.svd(D, full_matrices=False)
    energy, r2 = statistics.rank_one(gram(W), CLOCK)
    assert energy == pytest.approx(s[0] ** 2 / (s**2).sum())
    assert r2 == pytest.approx(stats.linregress(CLOCK, U[:, 0]).rvalue ** 2)


def test_forecast_errors_from_the_gram_are_those_of_the_weights(W: np.ndarray) -> None:
    cutoff, target_rows = 7, [7, 8]
    found = skill.held_out_skill(gram(W), CLOCK)
    seen, D = CLOCK[:cutoff], W
    hold = sum(np.sum((D[cutoff - 1] - D[s]) ** 2) for s in target_rows)

    def score(forecast) -> float:
        return 1 - sum(np.sum((forecast(CLOCK[s]) - D[s]) ** 2) for s in target_rows) / hold

    slope = (D[6] - D[0]) / (seen[6] - seen[0])
    assert found["two-point"] == pytest.approx(score(lambda t: D[6] + (t - seen[6]) * slope))
    line = np.polynomial.polynomial.polyfit(seen, D[:cutoff], 1)
    assert found["least-squares"] == pytest.approx(score(lambda t: line[0] + line[1] * t))
    factor = float(skill.damping(gram(W)[:cutoff, :cutoff], seen))
    assert found["damped"] == pytest.approx(score(lambda t: D[6] + factor * (t - seen[6]) * slope))


def test_damping_minimises_the_back_tests(W: np.ndarray) -> None:
    def error(factor: float) -> float:
        total = 0.0
        for c in range(1, len(CLOCK) - 1):
            for s in range(c + 1, len(CLOCK)):
                reach = factor * (CLOCK[s] - CLOCK[c]) / (CLOCK[c] - CLOCK[0])
                total += np.sum((W[c] + reach * (W[c] - W[0]) - W[s]) ** 2)
        return total

    grid = np.linspace(0, 1, 2001)
    assert float(skill.damping(gram(W), CLOCK)) == pytest.approx(grid[np.argmin([error(f) for f in grid])], abs=1e-3)


def test_a_straight_line_has_skill_one(rng: np.random.Generator) -> None:
    line = np.arange(8.0)[:, None] * rng.standard_normal(50)
    assert {
        name: float(value) for name, value in skill.held_out_skill(gram(line), np.arange(8.0)).items()
    } == pytest.approx({"two-point": 1.0, "least-squares": 1.0, "damped": 1.0})
