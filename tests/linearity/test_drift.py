"""The verdict's test on simulated runs: driftless ones must not be called linear, lines with noise must."""

import itertools

import numpy as np
import pytest

from driftline.linearity import null, persistence, regime, statistics
from driftline.linearity.drift import breakdown, drift_test


def simulate(
    rng: np.random.Generator,
    T: int,
    gap: int,
    *,
    N: int = 1000,
    beta1: float = 0.0,
    drift: float = 0.0,
    noise: float = 1.0,
    independent: float = 0.0,
    directions: int | None = None,
    bend: int | None = None,
) -> np.ndarray:
    """Gram of a run of T checkpoints: walk with momentum, drift and independent noise, per interval.

    `directions`: the walk lives in so few random directions. `bend`: there the drift takes a new direction.
    """
    d = directions or N
    momentum = np.zeros(d)
    for _ in range(60):
        momentum = beta1 * momentum + (1 - beta1) * rng.standard_normal(d)
    position, rows = np.zeros(d), [np.zeros(d)]
    for _ in range(T - 1):
        for _ in range(gap):
            momentum = beta1 * momentum + (1 - beta1) * rng.standard_normal(d)
            position = position + momentum
        rows.append(position)
    W = np.stack(rows) * noise / np.sqrt(gap)
    if directions:
        W = W @ rng.standard_normal((directions, N)) / np.sqrt(directions)
    before, after = rng.standard_normal((2, N))
    velocity = np.where(np.arange(T - 1)[:, None] < (T if bend is None else bend), before, after)
    W = (
        W
        + drift * np.concatenate([np.zeros((1, N)), np.cumsum(velocity, 0)])
        + independent * rng.standard_normal((T, N))
    )
    D = W - W[0]
    return D @ D.T


@pytest.mark.parametrize(
    ("T", "gap", "beta1", "directions"),
    [
        (6, 100, 0.9, None),
        (14, 20, 0.0, None),
        (29, 5, 0.9, None),
        (20, 20, 0.9, 4),
        (8, 20, 0.0, 1),
        (6, 2, 0.9, 300),  # closer than the optimizer's memory: every pair shares momentum
        (9, 5, 0.9, 300),
    ],
)
def test_driftless_walks_are_called_linear_in_at_most_five_of_a_hundred(
    T: int, gap: int, beta1: float, directions: int | None
) -> None:
    """200 trials each, so that the rate itself is tested: a true rate of .03 gives more than 10 in 4 % of seeds, one of .08 passes in 5 %."""
    rng = np.random.default_rng([T, gap])
    steps = np.arange(T) * gap
    found = sum(
        test.found
        for _ in range(200)
        if (
            test := drift_test(
                simulate(rng, T, gap, beta1=beta1, directions=directions), steps, steps.astype(float), beta1, draws=199
            )
        )
    )
    assert found <= 10


@pytest.mark.parametrize(
    ("T", "drift", "noise", "independent"), [(8, 0.6, 1, 0), (14, 0.3, 1, 0), (20, 0.3, 1, 1), (20, 1, 0.1, 4)]
)
def test_lines_with_noise_are_called_linear(T: int, drift: float, noise: float, independent: float) -> None:
    rng = np.random.default_rng(T)
    steps = np.arange(T) * 50
    for _ in range(20):
        gram = simulate(rng, T, 1, drift=drift, noise=noise, independent=independent)
        test = drift_test(gram, steps, steps.astype(float), 0.9, draws=399)
        assert test is not None
        assert test.found, test


def test_the_effective_dimension_is_that_of_the_noise() -> None:
    rng = np.random.default_rng(0)
    steps = np.arange(25) * 20
    for directions in (4, 200):
        found = [
            drift_test(simulate(rng, 25, 1, directions=directions), steps, steps.astype(float), 0.0, draws=199)
            for _ in range(10)
        ]
        assert np.median([test.effective_dimension for test in found if test]) == pytest.approx(directions, rel=0.3)


def test_how_large_the_drift_is_beside_the_truth() -> None:
    """A line in noise: what its separated increments share, and how much of the way it makes, are known."""
    rng, steps, T = np.random.default_rng(8), np.arange(20) * 20, 20
    for drift, independent in ((0.5, 0.0), (1.0, 4.0)):
        gram = simulate(rng, T, 1, N=200_000, drift=drift, independent=independent)
        test = drift_test(gram, steps, steps.astype(float), 0.0, draws=199)
        assert test is not None
        of_an_increment = drift**2 / (drift**2 + 1 + 2 * independent**2)
        line = (drift * (T - 1)) ** 2
        assert test.cosine == pytest.approx(of_an_increment, rel=0.05)
        assert test.share == pytest.approx(line / (line + (T - 1) + 2 * independent**2), rel=0.05)
        assert test.linear  # buried in independent noise, its cosine is .03, and yet it makes most of the way


def test_a_drift_that_is_detectable_in_many_dimensions_may_be_negligible() -> None:
    rng, steps = np.random.default_rng(9), np.arange(20) * 100
    walk = null.increment_correlation(steps, 0.9) + 0.001  # increments share a cosine of .001
    increments = null.simulated_increments(walk, 1_000_000, 1, rng)[0]
    gram = statistics.gram_of_increments(increments)
    test = drift_test(gram, steps, steps.astype(float), 0.9)
    assert test is not None
    assert test.found
    assert test.negligible
    assert not test.linear


@pytest.mark.parametrize("true", [0.95, 0.98])
def test_a_verdict_on_hidden_momentum_breaks_down_at_the_true_one(true: float) -> None:
    """Walks of longer memory than is assumed are called linear; the largest momentum at which they still are gives it away."""
    steps = np.arange(12) * 10
    rng = np.random.default_rng(11)
    held = []
    for _ in range(20):
        increments = null.simulated_increments(null.increment_correlation(steps, true), 50_000, 1, rng)[0]
        gram = statistics.gram_of_increments(increments)
        test = drift_test(gram, steps, steps.astype(float), 0.9, draws=199)
        if test is not None and test.found:
            held.append(breakdown(gram, steps, steps.astype(float), 0.9))
    assert len(held) >= 15
    assert sum(one >= true for one in held) <= 3  # 5 % of 20 is one


def test_a_verdict_that_holds_barely_says_up_to_where() -> None:
    """Fewer walks are simulated for the breakdown than for the verdict, so that the same momentum may fail there."""
    steps = np.arange(12) * 10
    gram = simulate(np.random.default_rng(3), 12, 1, drift=0.0)
    assert breakdown(gram, steps, steps.astype(float), 0.9) == 0.9


def test_a_straight_line_holds_up_to_long_memories() -> None:
    steps = np.arange(20) * 50
    gram = simulate(np.random.default_rng(12), 20, 1, drift=2.0)
    assert breakdown(gram, steps, steps.astype(float), 0.9) >= 0.99


def test_too_few_checkpoints_cannot_be_judged(rng: np.random.Generator) -> None:
    for T in (3, 4):
        steps = np.arange(T) * 20
        assert drift_test(simulate(rng, T, 1, drift=5.0), steps, steps.astype(float), 0.9) is None


def pieces(gram: np.ndarray, steps: np.ndarray, beta1: float = 0.0) -> list[tuple[int, int]]:
    lengths = np.sqrt(np.diag(statistics.increments_gram(gram)))
    found = regime.segments(gram, steps.astype(float), null.matched_gram(steps, beta1, lengths))
    return [(piece.first, piece.last) for piece in found]


@pytest.mark.parametrize(("T", "bend", "noise"), [(20, 8, 0.3), (20, 8, 1.0), (12, 6, 0.5), (30, 10, 0.1)])
def test_a_bend_is_cut_at_the_bend(T: int, bend: int, noise: float) -> None:
    rng = np.random.default_rng([T, bend])
    for _ in range(10):
        assert pieces(simulate(rng, T, 1, drift=1.0, noise=noise, bend=bend), np.arange(T) * 20) == [
            (0, bend),
            (bend, T - 1),
        ]


@pytest.mark.parametrize(("drift", "noise", "independent"), [(0, 1, 0), (1, 1, 0), (5, 1, 0), (1, 0.1, 2)])
def test_what_has_no_bend_is_left_whole(drift: float, noise: float, independent: float) -> None:
    rng = np.random.default_rng(3)
    for _ in range(10):
        assert pieces(simulate(rng, 20, 1, drift=drift, noise=noise, independent=independent), np.arange(20) * 20) == [
            (0, 19)
        ]


def test_residuals_are_those_of_fitted_lines(rng: np.random.Generator) -> None:
    clock = np.array([0.0, 1, 4, 6, 7, 11])
    W = np.cumsum(rng.standard_normal((6, 30)), 0)
    D = W - W[0]
    line, constant = regime.residuals(D @ D.T, clock)
    for i in range(6):
        for j in range(i + 1, 6):
            fit = np.polynomial.polynomial.polyfit(clock[i : j + 1], W[i : j + 1], 1)
            expected = np.sum((W[i : j + 1] - (fit[0] + np.outer(clock[i : j + 1], fit[1]))) ** 2)
            assert line[i, j] == pytest.approx(expected, abs=1e-8)
            assert constant[i, j] == pytest.approx(np.sum((W[i : j + 1] - W[i : j + 1].mean(0)) ** 2))


def test_cuts_are_the_best_of_all_cuts(rng: np.random.Generator) -> None:
    from itertools import combinations

    clock = np.arange(9.0)
    W = np.cumsum(rng.standard_normal((9, 20)), 0)
    line, _ = regime.residuals((W - W[0]) @ (W - W[0]).T, clock)
    totals, _ = regime.best_cuts(line)
    for extra, total in enumerate(totals):
        knots = [(0, *cut, 8) for cut in combinations(range(1, 8), extra)]
        allowed = [k for k in knots if min(np.diff(k)) >= 2]
        assert total == pytest.approx(min(sum(line[i, j] for i, j in itertools.pairwise(k)) for k in allowed))


@pytest.mark.parametrize("length", [100.0, 300.0])
def test_persistence_length_is_recovered(length: float) -> None:
    """Increments drawn from the model itself: drift that turns over `length` steps, and a walk.

    Of 20 intervals of 95 %, fewer than 16 hold the truth in one of 3,000 such tests.
    """
    rng, steps = np.random.default_rng(0), np.arange(40) * 20
    drift = persistence.drift_covariance(steps, length)
    walk = null.increment_correlation(steps, 0.9)
    lengths, inside = [], 0
    for _ in range(20):
        increments = null.simulated_increments(drift / drift[0, 0] + 0.5 * walk, 2000, 1, rng)[0]
        found = persistence.persistence(statistics.gram_of_increments(increments), steps, 0.9)
        assert found is not None
        assert found.high is not None
        inside += found.low <= length <= found.high
        lengths.append(found.length)
    assert inside >= 16
    assert np.mean(lengths) == pytest.approx(length, rel=0.03)


def test_persistence_of_a_line_is_at_least_the_run_and_of_a_walk_none() -> None:
    rng, steps = np.random.default_rng(6), np.arange(20) * 20
    line = persistence.persistence(simulate(rng, 20, 1, drift=2.0), steps, 0.0)
    assert line is not None
    assert line.at_least
    assert line.low > 380
    walk = persistence.persistence(simulate(rng, 20, 1), steps, 0.0)
    assert walk is not None
    assert walk.length == 0
