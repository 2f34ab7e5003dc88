"""Metrics against figures worked out by hand, brute force over subsets, and simulated truth."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from driftline.errors import InputError
from driftline.evaluation.metrics import bootstrap_interval, ks, paired_difference, pass_at_k, summarize


def test_pass_at_k_by_hand() -> None:
    right = np.array([[1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]])
    np.testing.assert_allclose(pass_at_k(right, 1), [1 / 4, 0, 1, 1 / 2])
    np.testing.assert_allclose(pass_at_k(right, 2), [1 / 2, 0, 1, 1 - 1 / 6])
    np.testing.assert_allclose(pass_at_k(right, 4), [1, 0, 1, 1])


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_pass_at_k_is_the_share_of_all_subsets_that_hold_a_right_sample(n: int) -> None:
    for outcome in itertools.product([False, True], repeat=n):
        for k in range(1, n + 1):
            subsets = list(itertools.combinations(outcome, k))
            share = sum(map(any, subsets)) / len(subsets)
            assert pass_at_k(np.array([outcome]), k)[0] == pytest.approx(share)


def test_pass_at_k_is_right_for_many_samples() -> None:
    right = np.zeros((1, 1000), bool)
    right[0, :3] = True
    assert pass_at_k(right, 500)[0] == pytest.approx(1 - math.comb(997, 500) / math.comb(1000, 500))
    with pytest.raises(InputError, match="pass@1001 needs 1001 samples of each problem: there are 1000"):
        pass_at_k(right, 1001)


def test_pass_at_k_is_unbiased(rng: np.random.Generator) -> None:
    p = 0.15
    right = rng.random((20_000, 6)) < p
    assert pass_at_k(right, 3).mean() == pytest.approx(1 - (1 - p) ** 3, abs=0.01)


def test_the_summary_by_hand() -> None:
    right = np.array([[1, 0], [1, 1], [0, 0]], bool)
    lengths, truncated = np.array([[3, 5], [4, 4], [8, 0]]), np.array([[0, 0], [0, 0], [1, 0]], bool)
    found = summarize(right, lengths, truncated, np.array([[1, 0.5], [1, 1], [0, 0]]))
    assert found["avg@k"] == 0.5
    assert found["pass@k"] == {"1": pytest.approx(0.5), "2": pytest.approx(2 / 3)}
    assert found["response_tokens"] == 4
    assert found["mean_score"] == pytest.approx(3.5 / 6)
    assert found["truncated"] == pytest.approx(1 / 6)
    low, high = found["interval"]
    assert low < 0.5 < high
    assert found["pass@k_interval"]["1"] == found["interval"]


def test_the_ks_are_powers_of_two_and_all() -> None:
    assert ks(1) == [1]
    assert ks(8) == [1, 2, 4, 8]
    assert ks(12) == [1, 2, 4, 8, 12]


def test_intervals_are_seeded(rng: np.random.Generator) -> None:
    values = rng.random(40)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


def test_problems_that_are_all_alike_do_not_make_certainty() -> None:
    low, high = bootstrap_interval(np.ones(30))
    assert (low, high) == (pytest.approx(0.025 ** (1 / 30)), 1.0)  # what Clopper and Pearson give
    low, high = bootstrap_interval(np.zeros(30))
    assert (low, high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 30)))
    assert bootstrap_interval(np.array([1.0])) == (pytest.approx(0.025), 1.0)
    with pytest.raises(InputError, match="no problems"):
        bootstrap_interval(np.array([]))


def test_of_one_sample_a_problem_the_interval_is_near_jeffreys() -> None:
    stats = pytest.importorskip("scipy.stats")
    for right, problems in ((1, 16), (3, 30), (20, 40)):
        low, high = bootstrap_interval(np.arange(problems) < right)
        exact = stats.beta.ppf([0.025, 0.975], right + 0.5, problems - right + 0.5)
        clopper = [
            stats.beta.ppf(0.025, right, problems - right + 1),
            stats.beta.ppf(0.975, right + 1, problems - right),
        ]
        assert clopper[0] - 0.01 < low < exact[0] + 0.005
        assert exact[1] - 0.005 < high < clopper[1] + 0.01


@pytest.mark.parametrize("problems", [16, 30, 100])
@pytest.mark.parametrize("mean", [0.01, 0.05, 0.2, 0.5])
def test_intervals_cover_at_small_means_and_few_problems(rng: np.random.Generator, problems: int, mean: float) -> None:
    """Difficulties alike, by Beta of two spreads, and of two kinds; one, four and 64 samples."""
    trials, covered, count = 40, 0, 0
    for samples in (1, 4, 64):
        for alike in (0.2, 0.5):
            for kind in ("beta", "same", "two"):
                for trial in range(trials):
                    shape = mean * (1 / alike - 1), (1 - mean) * (1 / alike - 1)
                    difficulty = {
                        "beta": rng.beta(*shape, problems),
                        "same": np.full(problems, mean),
                        "two": 0.9 * (rng.random(problems) < mean / 0.9),
                    }[kind]
                    low, high = bootstrap_interval(rng.binomial(samples, difficulty) / samples, seed=trial)
                    covered += low <= mean <= high
                    count += 1
    assert covered / count >= 0.93


def simulated(rng: np.random.Generator, problems: int, samples: int) -> tuple[np.ndarray, float]:
    """Mean scores [P] of problems whose difficulty is drawn from Beta(2, 1), and the true mean."""
    difficulty = rng.beta(2, 1, problems)
    return rng.binomial(samples, difficulty) / samples, 2 / 3


def test_intervals_cover_the_truth_as_often_as_they_say(rng: np.random.Generator) -> None:
    trials, covered = 400, 0
    for trial in range(trials):
        values, truth = simulated(rng, problems=40, samples=8)
        low, high = bootstrap_interval(values, seed=trial)
        covered += low <= truth <= high
    assert 0.91 <= covered / trials <= 0.98  # 0.95 up to three standard errors, and the bootstrap's small-sample loss


def test_a_paired_difference_by_hand() -> None:
    first, second = np.array([1.0, 0.75, 0.5, 1.0]), np.array([0.5, 0.25, 0.25, 0.0])
    found = paired_difference(first, second)
    assert found.mean == pytest.approx(0.5625)
    assert found.p_value == pytest.approx(2 / 16)  # all four of one sign: 2 of the 2^4 sign patterns
    assert found.interval == [-1, 1]  # p is above .05, and the interval says the same: four problems cannot tell
    mirrored = paired_difference(second, first)
    assert mirrored.mean == -found.mean
    assert mirrored.p_value == found.p_value


def test_the_interval_of_a_difference_holds_what_the_test_does_not_refuse(rng: np.random.Generator) -> None:
    """Independently, by scipy's permutation test of the differences less each value."""
    stats = pytest.importorskip("scipy.stats")
    change = rng.normal(0.1, 0.2, 9)
    low, high = paired_difference(change, np.zeros(9)).interval

    def p_value(shift: float) -> float:
        mean = lambda x, axis: np.mean(x, axis=axis)  # noqa: E731
        tested = stats.permutation_test((change - shift,), mean, permutation_type="samples", n_resamples=9999)
        return float(tested.pvalue)

    for inside in (low + 1e-6, high - 1e-6):
        assert p_value(inside) > 0.05
    for outside in (low - 1e-6, high + 1e-6):
        assert p_value(outside) <= 0.05


@pytest.mark.parametrize("problems", [1, 2, 5, 6, 10, 30, 200])
@pytest.mark.parametrize("kind", ["equal", "small", "sparse", "none"])
def test_test_and_interval_agree(rng: np.random.Generator, problems: int, kind: str) -> None:
    for trial in range(20):
        change = {
            "equal": np.full(problems, 0.1 * (-1) ** trial),
            "small": rng.normal(0.05, 0.1, problems),
            "sparse": (rng.random(problems) < 0.2) - 0.5 * (rng.random(problems) < 0.1),
            "none": np.zeros(problems),
        }[kind]
        found = paired_difference(change, np.zeros(problems), seed=trial)
        low, high = found.interval
        assert (found.p_value <= 0.05) == (not low <= 0 <= high)
        assert -1 <= low <= found.mean <= high <= 1
        assert low < high


def test_equal_models_do_not_differ() -> None:
    values = np.array([0.1, 0.5, 0.9])
    found = paired_difference(values, values)
    assert (found.mean, found.p_value) == (0.0, 1.0)
    assert found.interval[0] < 0 < found.interval[1]


def test_pairing_sees_what_the_spread_of_difficulty_hides(rng: np.random.Generator) -> None:
    difficulty = rng.random(60)
    better = np.clip(difficulty + 0.05 + 0.02 * rng.standard_normal(60), 0, 1)
    found = paired_difference(better, difficulty)
    assert found.p_value < 0.001
    assert found.interval[0] > 0
    assert bootstrap_interval(better)[0] < bootstrap_interval(difficulty)[1]  # unpaired intervals overlap


def test_p_values_and_paired_intervals_are_honest_when_nothing_differs(rng: np.random.Generator) -> None:
    trials, rejected, covered = 200, 0, 0
    for trial in range(trials):
        difficulty = rng.beta(2, 1, 40)
        first, second = (rng.binomial(8, difficulty) / 8 for _ in range(2))
        found = paired_difference(first, second, seed=trial)
        rejected += found.p_value < 0.05
        covered += found.interval[0] <= 0 <= found.interval[1]
    assert rejected / trials <= 0.09
    assert covered / trials >= 0.91
