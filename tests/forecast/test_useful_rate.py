"""The largest useful rate and the noise scale, against runs that are simulated step by step."""

from __future__ import annotations

import math

import numpy as np
import pytest

from driftline.forecast.useful_rate import FEWEST, Estimate, UsefulRate, smoothed_drift, useful_rate
from driftline.linearity.null import walk_covariance
from driftline.linearity.statistics import gram_of_increments, increments_gram

BETA1 = 0.9


def run(
    rng: np.random.Generator, checkpoints: int, gap: int, length: float, ratio: float, dimension: int, noise: float = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Gram and steps of weights that are moved step by step, by momentum of gradients: a mean that forgets itself over
    `length` steps, and noise of `ratio` times its square; and noise at each checkpoint."""
    velocity = rng.standard_normal(dimension)
    momentum, weights, saved = np.zeros(dimension), np.zeros(dimension), []
    keep = math.exp(-1 / length)
    for step in range(-200, (checkpoints - 1) * gap + 1):
        if step >= 0 and step % gap == 0:
            saved.append(weights + noise * rng.standard_normal(dimension))
        velocity = keep * velocity + math.sqrt(1 - keep**2) * rng.standard_normal(dimension)
        gradient = velocity + math.sqrt(ratio) * rng.standard_normal(dimension)
        momentum = BETA1 * momentum + (1 - BETA1) * gradient
        weights = weights + momentum
    deltas = np.array(saved) - saved[0]
    return deltas @ deltas.T, np.arange(checkpoints) * gap


def steps_after_the_first_ten(checkpoints: int, gap: int) -> int:
    kept = [step for step in range(0, checkpoints * gap, gap) if step >= 10]
    return kept[-1] - kept[0]


def found(*args: object, **options: float) -> UsefulRate:
    estimate = useful_rate(*run(*args, **options), BETA1)  # type: ignore[arg-type]
    assert estimate is not None
    return estimate


@pytest.mark.parametrize(
    ("checkpoints", "gap", "length", "ratio"), [(26, 2, 40.0, 5.0), (26, 2, 100.0, 20.0), (16, 20, 100.0, 10.0)]
)
def test_the_factor_and_the_noise_are_those_of_the_simulation(
    checkpoints: int, gap: int, length: float, ratio: float
) -> None:
    """In so many dimensions to a tenth; the drift's length too."""
    estimate = found(np.random.default_rng(0), checkpoints, gap, length, ratio, 20_000)
    assert estimate.factor.value == pytest.approx(length / (1 + ratio), rel=0.1)
    assert estimate.noise.value == pytest.approx(ratio, rel=0.1)
    assert estimate.drift == pytest.approx(math.sqrt(20_000), rel=0.1)
    assert estimate.span == steps_after_the_first_ten(checkpoints, gap)


def test_drift_that_went_through_momentum_is_as_simulated() -> None:
    gram, steps = run(np.random.default_rng(2), 12, 3, 40.0, 0.0, 50_000)
    expected = smoothed_drift(steps, 40.0, BETA1)
    assert increments_gram(gram) / 50_000 == pytest.approx(expected, abs=0.03 * expected.max())


def test_without_momentum_it_is_the_drift_itself() -> None:
    steps = np.array([0, 2, 5, 6, 20])
    plain = np.diff(np.diff(walk_covariance(steps, math.exp(-1 / 40)), axis=0), axis=1)
    assert smoothed_drift(steps, 40.0, 0.0) == pytest.approx(plain)


def test_lengths_near_the_memory_of_the_momentum_make_no_jump() -> None:
    """At r = b the sum of two terms is one of infinities; it is told beside it."""
    steps, length = np.arange(0, 40, 4), -1 / math.log(BETA1)
    at, near = smoothed_drift(steps, length, BETA1), smoothed_drift(steps, length * 1.001, BETA1)
    assert at == pytest.approx(near, rel=0.01)


def test_a_model_without_it_takes_noise_for_drift() -> None:
    gram, steps = run(np.random.default_rng(0), 26, 2, 40.0, 5.0, 20_000)
    plain = useful_rate(gram, steps, BETA1, through_momentum=False)
    assert plain is not None
    assert plain.factor.value > 1.5 * 40 / 6


def test_the_first_steps_of_a_new_optimizer_are_left_out() -> None:
    """Three times as long and all one way, they change nothing but where they are counted."""
    gram, steps = run(np.random.default_rng(4), 26, 2, 60.0, 5.0, 20_000)
    increments = increments_gram(gram)
    larger = np.where(steps[1:] <= 10, 3.0, 1.0)
    begun = gram_of_increments(increments * np.outer(larger, larger))
    as_it_was, after, with_it = (
        useful_rate(gram, steps, BETA1),
        useful_rate(begun, steps, BETA1),
        useful_rate(begun, steps, BETA1, settled=False),
    )
    assert as_it_was is not None
    assert after is not None
    assert with_it is not None
    assert after.factor.value == pytest.approx(as_it_was.factor.value)
    assert with_it.dimensions < after.dimensions / 10
    resumed = useful_rate(begun, steps + 100, BETA1)
    assert resumed is not None
    assert resumed.factor.value == pytest.approx(with_it.factor.value)


def test_noise_of_saving_is_told_from_noise_of_training() -> None:
    estimate = found(np.random.default_rng(1), 26, 4, 60.0, 10.0, 20_000, noise=2.0)
    assert estimate.noise.value == pytest.approx(10, rel=0.25)


def covered(runs: int, checkpoints: int, gap: int, length: float, ratio: float, dimension: int) -> int:
    """How many intervals of the factor hold the true one."""
    true, held = length / (1 + ratio), 0
    for seed in range(runs):
        factor = found(np.random.default_rng([seed, checkpoints]), checkpoints, gap, length, ratio, dimension).factor
        held += factor.low <= true <= factor.high
    return held


def test_intervals_hold_the_true_factor() -> None:
    """20 runs at 95 %: 16 or more of them in 99.7 % of cases, 15 or fewer if intervals were half as wide."""
    assert covered(20, 16, 4, 60.0, 5.0, 300) >= 16


@pytest.mark.slow
@pytest.mark.parametrize(
    ("checkpoints", "gap", "length", "ratio", "dimension"),
    [
        (26, 2, 40.0, 5.0, 300),
        (26, 2, 100.0, 20.0, 300),
        (13, 4, 100.0, 10.0, 300),
        (16, 20, 100.0, 10.0, 300),
        (26, 2, 100.0, 20.0, 10_000),
    ],
)
def test_intervals_cover_nine_in_ten(checkpoints: int, gap: int, length: float, ratio: float, dimension: int) -> None:
    """Of 100 at least 86: below that one would be sure (99 %) that they cover less than .93."""
    assert covered(100, checkpoints, gap, length, ratio, dimension) >= 86


def test_a_walk_without_drift_has_a_factor_that_may_be_nothing() -> None:
    rng = np.random.default_rng(3)
    steps = rng.standard_normal((400, 5000))
    saved = np.cumsum(steps, 0)[::20]
    deltas = saved - saved[0]
    estimate = useful_rate(deltas @ deltas.T, np.arange(0, 400, 20), 0.0)
    assert estimate is not None
    assert estimate.factor.low < 0.1
    assert estimate.noise.high > 1e3


def test_a_line_has_no_largest_rate() -> None:
    """Of a straight line neither length nor factor ends, and there is next to no noise."""
    steps = np.arange(0.0, 200, 10)
    estimate = useful_rate(np.outer(steps, steps) + np.diag(1e-9 * steps), steps, 0.9)
    assert estimate is not None
    assert estimate.factor.high == estimate.persistence.high == math.inf
    assert estimate.noise.value < 0.1


@pytest.mark.parametrize("checkpoints", [2, FEWEST - 1])
def test_too_few_checkpoints_give_nothing(checkpoints: int) -> None:
    gram = gram_of_increments(np.eye(checkpoints - 1))
    assert useful_rate(gram, 20 + np.arange(checkpoints), 0.9) is None
    assert useful_rate(gram, np.arange(checkpoints), 0.9) is None
    assert useful_rate(gram_of_increments(np.eye(11)), np.arange(12), 0.9) is None  # two that count


def test_a_run_that_stands_still_gives_nothing() -> None:
    assert useful_rate(np.zeros((12, 12)), np.arange(12), 0.9) is None


def test_the_unit_of_the_weights_does_not_matter() -> None:
    gram, steps = run(np.random.default_rng(5), 12, 4, 60.0, 5.0, 300)
    one, other = useful_rate(gram, steps, BETA1), useful_rate(gram * 1e-14, steps, BETA1)
    assert one is not None
    assert other is not None
    for field in ("factor", "noise", "persistence"):
        a, b = getattr(one, field), getattr(other, field)
        assert isinstance(a, Estimate)
        assert (a.value, a.low) == pytest.approx((b.value, b.low))
    assert other.drift == pytest.approx(one.drift * 1e-7)
