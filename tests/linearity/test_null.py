"""The null against the literature's figures and against walks simulated step by step."""

import numpy as np
import pytest

from driftline.checkpoints.dtypes import round_to
from driftline.linearity import null, statistics, step_sizes
from driftline.linearity.scan import Population
from driftline.linearity.step_sizes import moves_of


def walks(rng: np.random.Generator, steps: np.ndarray, beta1: float, count: int) -> np.ndarray:
    """Driftless walks with stationary momentum, simulated step by step: [count, T]."""
    momentum = rng.standard_normal(count) * np.sqrt((1 - beta1) / (1 + beta1)) if beta1 else np.zeros(count)
    position, rows = np.zeros(count), [np.zeros(count)]
    for step in range(1, steps[-1] + 1):
        momentum = beta1 * momentum + (1 - beta1) * rng.standard_normal(count)
        position = position + momentum
        if step in steps:
            rows.append(position.copy())
    return np.stack(rows, axis=1)


@pytest.mark.parametrize("T", [14, 100])
def test_nelson_and_kang(T: int) -> None:
    """A driftless walk regressed on time: mean R² .44 whatever the length (1984)."""
    steps = np.arange(T) * 100
    assert null.null_r2(steps, steps.astype(float), 0.0).mean_r2 == pytest.approx(0.44, abs=0.01)


def test_momentum_raises_the_null() -> None:
    """beta1 .9 and checkpoints 5 steps apart: mean .53, median .59, neighbouring increments' cosine .71."""
    steps = np.arange(0, 125, 5)
    population = null.null_r2(steps, steps.astype(float), 0.9)
    assert population.mean_r2 == pytest.approx(0.53, abs=0.01)
    assert population.quantile(0.5) == pytest.approx(0.59, abs=0.015)
    assert null.increment_correlation(steps, 0.9)[0, 1] == pytest.approx(0.71, abs=0.005)


@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_walk_covariance_is_that_of_simulated_walks(rng: np.random.Generator, beta1: float) -> None:
    steps = np.array([0, 3, 4, 20, 50])
    simulated = walks(rng, steps, beta1, 200_000)
    covariance = np.cov(simulated[:, 1:].T)
    expected = null.walk_covariance(steps, beta1)[1:, 1:]
    np.testing.assert_allclose(covariance / covariance[0, 0], expected / expected[0, 0], rtol=0.03)


def test_rank_one_energy_of_a_walk_is_eight_over_pi_squared() -> None:
    steps = np.arange(200)
    energy, r2 = statistics.rank_one(null.walk_covariance(steps, 0.0), steps.astype(float))
    assert energy == pytest.approx(8 / np.pi**2, abs=0.002)
    assert r2 == pytest.approx(0.96, abs=0.01)


def test_simulated_increments_have_the_given_covariance_in_any_dimension(rng: np.random.Generator) -> None:
    covariance = null.increment_correlation(np.arange(0, 35, 5), 0.9)
    for dimensions in (2, 50):
        mean = null.simulated_increments(covariance, dimensions, 4000, rng).mean(0)
        np.testing.assert_allclose(mean, covariance, atol=0.06)


@pytest.mark.parametrize(
    ("size", "kept", "median"), [(1.0e-5, 0.0015, 0.90), (1.8e-5, 0.056, 0.767), (2.5e-5, 0.15, 0.66)]
)
def test_the_papers_filter_lifts_the_null(rng: np.random.Generator, size: float, kept: float, median: float) -> None:
    """Weights N(0, .03) in bf16, 14 checkpoints, a driftless walk of `size` per interval (shared facts, section 3)."""
    steps = np.arange(14) * 100
    start = round_to((0.03 * rng.standard_normal(50_000)).astype(np.float32), "BF16")
    walk = np.cumsum(size * rng.standard_normal((50_000, 14)), axis=1)
    saved = round_to((start[:, None] + walk - walk[:, :1]).astype(np.float32), "BF16").astype(np.float64)
    moves = moves_of(saved, 50_000, "BF16")
    population, _, share = null.matched_null_r2(steps, steps.astype(float), 0.0, [moves], filter="paper")
    assert share == pytest.approx(kept, rel=0.2)  # 2,048 first values stand for the tensor
    assert population.quantile(0.5) == pytest.approx(median, abs=0.02)


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
@pytest.mark.parametrize("every", [1, 2])
def test_weights_that_begin_at_zero_have_a_null_like_them(rng: np.random.Generator, dtype: str, every: int) -> None:
    """As biases do, all of a tensor or half of it; against walks with the same steps, filtered by numpy."""
    n, steps = 100_000, np.arange(14) * 10
    start = np.where(np.arange(n) % every, 0.03 * rng.standard_normal(n), 0.0)
    start = round_to(start.astype(np.float32), dtype).astype(np.float64)

    def walks() -> np.ndarray:
        sizes = 1e-5 * np.exp(0.8 * rng.standard_normal((n, 1)))
        path = (sizes * rng.standard_normal((n, 13))).cumsum(axis=1)
        return round_to(np.hstack([start[:, None], start[:, None] + path]).astype(np.float32), dtype)

    one, other = walks(), walks()
    moved = other[np.ptp(other, axis=1) > 1e-4]
    kept = moved[1 + (np.diff(np.sort(moved, axis=1), axis=1) > 0).sum(1) >= 4]
    r2 = statistics.line_r2(np.arange(14.0), (kept - kept[:, :1]).astype(np.float64))
    moves = moves_of(one[rng.permutation(n)[:20_000]], n, dtype)
    population, _, share = null.matched_null_r2(steps, steps.astype(float), 0.0, [moves], filter="paper")
    assert share == pytest.approx(len(kept) / n, rel=0.1)
    assert population.quantile(0.5) == pytest.approx(np.median(r2), abs=0.02)


@pytest.mark.parametrize(("spread", "size"), [(0.0, 1e-5), (0.8, 1e-5), (0.5, 3e-4)])
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
@pytest.mark.parametrize("from_rounded", [True, False])
def test_step_sizes_are_recovered_from_saved_walks(
    rng: np.random.Generator, spread: float, size: float, dtype: str, from_rounded: bool
) -> None:
    n = 4000
    start = 0.03 * rng.standard_normal(n)
    if from_rounded:
        start = round_to(start.astype(np.float32), dtype)
    own = size * np.exp(spread * rng.standard_normal((n, 1)))
    walk = np.cumsum(own * rng.standard_normal((n, 12)), axis=1)
    saved = round_to((start[:, None] + walk - walk[:, :1]).astype(np.float32), dtype).astype(np.float64)
    moves = moves_of(saved, n, dtype)
    root = np.vstack([np.zeros(11), np.tril(np.ones((11, 11)))])
    found = step_sizes.fit(moves, step_sizes.rounded_moments(root, from_rounded, rng))
    assert np.exp(found.median) == pytest.approx(size, rel=0.25)
    assert found.spread == pytest.approx(spread, abs=0.25)
    assert found.share == 1


@pytest.mark.parametrize("ratio", [0.03, 0.6, 7.0])
def test_moments_of_rounded_walks_are_those_of_the_walks_written_out(rng: np.random.Generator, ratio: float) -> None:
    """More walks than are taken at once, and not a multiple of them."""
    walks, start = rng.standard_normal((5, 2500)).cumsum(axis=0), rng.uniform(-0.5, 0.5, 2500)
    square = (np.diff(np.rint(ratio * walks + start), axis=0) ** 2).mean(axis=0)
    expected = np.sqrt(square).mean(), square.mean(), (square > 0).mean()
    np.testing.assert_allclose(step_sizes._moments(walks, start, ratio), expected, rtol=1e-12)


def test_population_of_leaves_out_what_has_no_r2() -> None:
    population = null.population_of(np.array([0.2, np.nan, 0.9, 1.0]))
    assert isinstance(population, Population)
    assert (population.count, population.strong) == (3, 2)
    assert population.mean_r2 == pytest.approx(0.7)


def test_the_null_moves_as_unevenly_as_the_run(rng: np.random.Generator) -> None:
    """A rate that drops to a tenth: walks simulated step by step, against the null that is given their lengths."""
    steps = np.arange(16) * 20
    rate = np.where(np.arange(15) < 5, 1.0, 0.1)
    own = np.cumsum(
        np.hstack([np.zeros((100_000, 1)), np.diff(walks(rng, steps, 0.0, 100_000), axis=1) * rate]), axis=1
    )
    truth = null.population_of(statistics.line_r2(steps.astype(float), own))
    found = null.null_r2(steps, steps.astype(float), 0.0, lengths=7 * rate)
    assert found.mean_r2 == pytest.approx(truth.mean_r2, abs=0.01)
    assert found.quantile(0.5) == pytest.approx(truth.quantile(0.5), abs=0.015)
    constant = null.null_r2(steps, steps.astype(float), 0.0)
    assert found.share_strong == pytest.approx(truth.share_strong, abs=0.01)
    assert constant.share_strong > 3 * truth.share_strong


@pytest.mark.parametrize(
    ("before", "after", "frozen"), [(3e-5, 3e-6, 0.0), (3e-5, 3e-5, 0.9), (3e-5, 3e-6, 0.5)], ids=str
)
@pytest.mark.parametrize("filter", ["none", "paper"])
def test_the_rounded_null_knows_of_rates_that_drop_and_of_what_is_frozen(
    rng: np.random.Generator, before: float, after: float, frozen: float, filter: str
) -> None:
    """In bf16, against the run itself, a driftless one: R², and how many weights change and pass."""
    n, steps = 100_000, np.arange(16) * 100
    start = round_to((0.03 * rng.standard_normal(n)).astype(np.float32), "BF16")
    own = np.exp(0.5 * rng.standard_normal((n, 1))) * (rng.random((n, 1)) >= frozen)
    moved = own * rng.standard_normal((n, 15)) * np.where(np.arange(15) < 5, before, after)
    path = np.hstack([np.zeros((n, 1)), moved.cumsum(1)])
    saved = round_to((start[:, None] + path).astype(np.float32), "BF16").astype(np.float64)
    spans, distinct = np.ptp(saved, axis=1), 1 + (np.diff(np.sort(saved, axis=1), axis=1) > 0).sum(1)
    kept = saved[(spans > 1e-4) & (distinct >= 4)] if filter == "paper" else saved[spans > 0]
    truth = null.population_of(statistics.line_r2(steps.astype(float), kept - kept[:, :1]))
    lengths = np.sqrt((np.diff(saved, axis=1) ** 2).sum(0))
    found, changed, passing = null.matched_null_r2(
        steps, steps.astype(float), 0.0, [moves_of(saved[:8000], n, "BF16")], filter=filter, lengths=lengths
    )
    assert found.quantile(0.5) == pytest.approx(truth.quantile(0.5), abs=0.03)
    assert changed == pytest.approx((spans > 0).mean(), rel=0.1)
    assert passing == pytest.approx(len(kept) / n, rel=0.2)


def test_each_simulated_walk_has_the_dimension_it_is_given(rng: np.random.Generator) -> None:
    """Cosines of independent increments in d dimensions have variance 1 / d, with fewer dimensions than increments too."""
    dimensions = np.tile([1.0, 3.0, 40.0], 4000)
    grams = null.simulated_increments(np.diag([1.0, 4.0, 9.0, 1.0, 1.0]), dimensions, dimensions.size, rng)
    lengths = np.sqrt(np.diagonal(grams, axis1=1, axis2=2))
    cosines = grams[:, 0, 4] / (lengths[:, 0] * lengths[:, 4])
    for d in (1, 3, 40):
        assert np.var(cosines[dimensions == d]) == pytest.approx(1 / d, rel=0.1)
        assert np.linalg.matrix_rank(grams[dimensions == d][0], tol=1e-8) == min(d, 5)
    assert grams[dimensions == 40].mean(0).diagonal() == pytest.approx([1, 4, 9, 1, 1], rel=0.05)
