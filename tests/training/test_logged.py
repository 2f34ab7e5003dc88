"""The figures of a stream of increments, and that costly ones are had anew only when the run has grown."""

from __future__ import annotations

import numpy as np
import pytest

from driftline.linearity import statistics
from driftline.training.increments import Increments
from driftline.training.logged import LoggedFigures

N = 400


def walk(steps: int, drift: float, *, turn: int | None = None) -> np.ndarray:
    """W [steps + 1, N]: unit noise and drift at every step; after `turn` no drift and half as much noise again."""
    rng = np.random.default_rng(1)
    direction = rng.standard_normal(N)
    rows = [
        (0 if turn and k >= turn else drift) * direction + (1.5 if turn and k >= turn else 1) * rng.standard_normal(N)
        for k in range(steps)
    ]
    return np.concatenate([np.zeros((1, N)), np.cumsum(rows, 0)])


def figures_of(path: np.ndarray, beta1: float = 0.9) -> tuple[list[dict[str, float]], list[int]]:
    """Figures after every step, and the steps at which R² was had."""
    run, figures, had = Increments(np.empty((100, N)), path[0], 0), LoggedFigures(beta1), []

    def r2(steps):
        had.append(int(steps[-1]))
        return np.full(N, 0.5)

    found = []
    for step in range(1, len(path)):
        run.add(path[step], step, 1e-3)
        found.append(figures.of(run, r2))
    return found, had


def test_figures_are_those_of_the_exact_gram():
    path = walk(40, 0.5)
    found, had = figures_of(path)
    steps = np.arange(41.0)
    increments = np.diff(path, axis=0)
    pairs = statistics.separated_pairs(steps, statistics.optimizer_memory(0.9))
    cosine = statistics.mean_cosine(increments @ increments.T, pairs)[0]
    assert found[-1]["increment_cosine"] == pytest.approx(cosine)
    assert found[-1]["null_increment_cosine"] == pytest.approx(0, abs=0.05)
    assert found[-1]["growth_exponent"] == pytest.approx(statistics.growth_exponent(path @ path.T, steps)[0])
    assert found[-1]["r2_mean"] == 0.5
    assert 0 < found[-1]["null_r2_mean"] < 1
    assert "increment_cosine" not in found[0]
    assert "recommended_horizon" not in found[5]
    assert "recommended_horizon" in found[6]
    assert had == [2, 3, 4, 5, 7, 9, 12, 15, 19, 24, 30, 38]


def test_of_pure_noise_nothing_is_said_of_drift_but_beside_chance():
    """Steps closer than the optimizer's memory share momentum: without chance beside it that looks like drift."""
    rng, momentum, rows = np.random.default_rng(2), np.zeros(N), [np.zeros(N)]
    for _ in range(60):
        momentum = 0.9 * momentum + rng.standard_normal(N)
        rows.append(rows[-1] + momentum)
    found, _ = figures_of(np.stack(rows))
    close = [one for one in found if "increment_cosine" not in one]
    assert len(close) >= 28  # as long as no two intervals are further apart than the memory
    assert not any("drift_to_noise" in one for one in close)
    for one in found[3:]:
        assert {"null_growth_exponent", "null_skill_ahead"} <= one.keys()
        assert one["growth_exponent"] == pytest.approx(one["null_growth_exponent"], abs=0.2)
    far = [one for one in found if "increment_cosine" in one]
    assert max(abs(one["increment_cosine"] - one["null_increment_cosine"]) for one in far) < 0.2


def test_a_straight_run_has_a_horizon_once_its_drift_is_told_from_momentum():
    found, _ = figures_of(walk(42, 1.0))
    assert found[30]["recommended_horizon"] == 0
    assert found[-1]["recommended_horizon"] > 0


def test_a_direction_that_is_lost_is_told_with_its_step():
    found, _ = figures_of(walk(24, 1.0, turn=18), 0.0)
    assert found[16]["direction_lost"] == 0
    assert "direction_lost_since" not in found[16]
    assert found[-1]["direction_lost"] == 1
    assert found[-1]["direction_lost_since"] == pytest.approx(18, abs=1)


def test_parameters_that_never_move_have_no_figures():
    run = Increments(np.empty((16, N)), np.zeros(N), 0)
    figures = LoggedFigures(0.0)
    run.add(np.zeros(N), 1, 0.0)
    run.add(np.zeros(N), 2, 0.0)
    assert figures.of(run, lambda steps: np.empty(0)) == {}
