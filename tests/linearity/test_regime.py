"""A change of speed and a change of direction both cut a run; the clock of the rate forgives the first."""

import numpy as np
import pytest

from driftline.linearity import null, regime
from driftline.linearity.statistics import increments_lengths


def pieces(weights: np.ndarray, steps: np.ndarray, clock: np.ndarray) -> int:
    gram = (weights - weights[0]) @ (weights - weights[0]).T
    return len(regime.segments(gram, clock, null.matched_gram(steps, 0.0, increments_lengths(gram))))


@pytest.mark.parametrize("noise", [0.02, 0.3])
def test_a_straight_direction_at_a_falling_rate_is_one_piece_on_the_clock_of_the_rate(
    rng: np.random.Generator, noise: float
) -> None:
    """As docs/is-my-run-linear.md says: on the clock of steps it is cut, and the sentence says speed or direction."""
    T, n = 21, 2000
    steps = np.arange(T) * 20
    rate = (1 + np.cos(np.pi * (np.arange(T - 1) + 0.5) / (T - 1))) / 2
    direction = rng.standard_normal(n)
    moves = rate[:, None] * (direction + noise * rng.standard_normal((T - 1, n)))
    weights = np.vstack([np.zeros(n), moves.cumsum(0)])
    summed = np.concatenate([[0.0], rate.cumsum()])
    assert pieces(weights, steps, steps.astype(float)) > 1
    assert pieces(weights, steps, summed) == 1


def test_a_turn_cuts_on_either_clock(rng: np.random.Generator) -> None:
    T, n = 21, 2000
    steps = np.arange(T) * 20
    legs = np.where(np.arange(T - 1)[:, None] < 10, rng.standard_normal(n), rng.standard_normal(n))
    weights = np.vstack([np.zeros(n), (legs + 0.1 * rng.standard_normal((T - 1, n))).cumsum(0)])
    assert pieces(weights, steps, steps.astype(float)) == 2
