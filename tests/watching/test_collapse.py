"""The warning of a collapse, on synthetic increments."""

from __future__ import annotations

import numpy as np
import pytest

from driftline.watching.collapse import collapse


def increments_of(rng, K, drift, noise, *, turn=None, faster=None, N=2000):
    """C of K intervals; from `turn` on without drift and with half as much noise again; from `faster` on 3 times as long."""
    direction = rng.standard_normal(N)
    rows = []
    for k in range(K):
        lost = turn is not None and k >= turn
        row = (0 if lost else drift) * direction + (1.5 if lost else 1) * noise * rng.standard_normal(N)
        rows.append(row * (3 if faster is not None and k >= faster else 1))
    return np.stack(rows) @ np.stack(rows).T


def test_collapses_are_dated_and_healthy_runs_are_left_alone():
    rng = np.random.default_rng(3)
    clock, none = np.arange(25.0) * 10, np.zeros(24)
    healthy = [collapse(increments_of(rng, 24, drift, 1.0), clock, none) for drift in (0, 0.3, 1, 3) for _ in range(50)]
    assert healthy == [None] * 200
    for _ in range(20):
        assert collapse(increments_of(rng, 24, 1.0, 1.0, turn=18), clock, none) == pytest.approx(180, abs=10)
        assert collapse(increments_of(rng, 24, 0.5, 1.0, faster=20), clock, none) == 200
    # three times as long because the learning rate rose threefold: nothing to warn of
    spans = np.where(np.arange(24) >= 20, 3.0, 1.0)
    assert collapse(increments_of(rng, 24, 0.5, 1.0, faster=20), clock, spans) is None
