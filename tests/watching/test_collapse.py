"""The warnings of a direction that is lost and of longer increments, on synthetic ones."""

from __future__ import annotations

import numpy as np
import pytest

from driftline.watching.collapse import direction_lost, moving_further


def increments_of(rng, K, drift, noise, *, turn=None, faster=None, N=2000):
    """C of K intervals; from `turn` on without drift and with half as much noise again; from `faster` on 3 times as long."""
    direction = rng.standard_normal(N)
    rows = []
    for k in range(K):
        lost = turn is not None and k >= turn
        row = (0 if lost else drift) * direction + (1.5 if lost else 1) * noise * rng.standard_normal(N)
        rows.append(row * (3 if faster is not None and k >= faster else 1))
    return np.stack(rows) @ np.stack(rows).T


def test_losses_are_dated_and_straight_and_driftless_runs_are_left_alone():
    rng = np.random.default_rng(3)
    clock, none = np.arange(25.0) * 10, np.zeros(24)
    for drift in (0, 0.3, 1, 3):
        for _ in range(50):
            increments = increments_of(rng, 24, drift, 1.0)
            assert direction_lost(increments, clock, 0.0) is None
            assert moving_further(increments, clock, none) is None
    for _ in range(20):
        lost = increments_of(rng, 24, 1.0, 1.0, turn=18)
        assert direction_lost(lost, clock, 0.0) == pytest.approx(180, abs=10)
        assert moving_further(lost, clock, none) is None
        assert moving_further(increments_of(rng, 24, 0.5, 1.0, faster=20), clock, none) == 200
    # three times as long because the learning rate rose threefold: nothing to warn of
    rates = np.where(np.arange(24) >= 20, 3.0, 1.0)
    assert moving_further(increments_of(rng, 24, 0.5, 1.0, faster=20), clock, rates) is None


@pytest.mark.parametrize("drift", [0.0, 3.0])
@pytest.mark.parametrize("times", [0.1, 9.0])
def test_other_spacing_is_no_warning(drift: float, times: float):
    """Lengths go with the square root of the steps between checkpoints for a walk, with the steps for a line."""
    rng, late = np.random.default_rng(4), np.arange(24) >= 14
    gaps = np.where(late, 10 * times, 10.0)
    clock = np.concatenate([[0.0], np.cumsum(gaps)])
    direction = drift * rng.standard_normal(2000)
    rows = gaps[:, None] / 10 * direction + np.sqrt(gaps / 10)[:, None] * rng.standard_normal((24, 2000))
    assert moving_further(rows @ rows.T, clock, np.zeros(24)) is None
    assert direction_lost(rows @ rows.T, clock, 0.0) is None


def test_momentum_that_wider_checkpoints_no_longer_share_is_no_direction_lost():
    """A driftless walk with momentum saved every step, then every twenty: neighbours no longer resemble each other."""
    rng = np.random.default_rng(5)
    steps = np.concatenate([np.arange(14), 13 + 20 * np.arange(1, 9)])
    for _ in range(20):
        momentum, position = np.zeros(2000), np.zeros(2000)
        for _ in range(100):
            momentum = 0.9 * momentum + rng.standard_normal(2000)
        rows = [position]
        for step in range(1, steps[-1] + 1):
            momentum = 0.9 * momentum + rng.standard_normal(2000)
            position = position + momentum
            if step in steps:
                rows.append(position)
        increments = np.diff(np.stack(rows), axis=0)
        assert direction_lost(increments @ increments.T, steps.astype(float), 0.9) is None
