"""The variances of the persistence model against a general optimizer, and as many as are there."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from driftline.linearity import null, persistence

STEPS = np.arange(14) * 20


def least(parts: np.ndarray, increments: np.ndarray) -> tuple[np.ndarray, float]:
    """The variances [3] with the least -log L / N, by L-BFGS-B from several starts."""

    def loss(variances: np.ndarray) -> float:
        total = np.einsum("p,pij->ij", variances, parts) + 1e-9 * np.eye(len(increments))
        return float(np.linalg.slogdet(total)[1] + np.trace(np.linalg.solve(total, increments))) / 2

    scale = np.trace(increments) / np.trace(parts, axis1=1, axis2=2)
    found = [
        minimize(lambda v: loss(v * scale), start, bounds=[(0, None)] * 3, options={"ftol": 1e-15, "gtol": 1e-9})
        for start in (np.ones(3) / 3, np.array([0.9, 0.05, 0.05]), np.array([0.05, 0.9, 0.05]))
    ]
    best = min(found, key=lambda one: one.fun)
    return best.x * scale, float(best.fun)


@pytest.mark.parametrize("true", [(0.5, 0.5, 0.0), (0.0, 1.0, 0.0), (0.3, 0.4, 0.3), (1.0, 0.05, 0.0)])
@pytest.mark.parametrize("directions", [30, 10_000])
def test_variances_are_the_most_likely_ones(true: tuple[float, float, float], directions: int) -> None:
    """At the bounds too, which multiplicative iterations only come near."""
    parts = persistence.parts(STEPS, 200.0, 0.9)
    parts /= np.trace(parts, axis1=1, axis2=2)[:, None, None] / len(parts[0])
    covariance = np.einsum("p,pij->ij", true, parts)
    increments = null.simulated_increments(covariance, directions, 1, np.random.default_rng(4))[0]
    increments *= len(increments) / np.trace(increments)
    variances, loss = persistence.fit_variances(parts[None], increments)
    best, lowest = least(parts, increments)
    assert loss[0] == pytest.approx(lowest, abs=1e-8)
    assert variances[0] == pytest.approx(best, abs=1e-3)


@pytest.mark.slow
def test_lengths_beyond_the_run_are_not_taken_for_less() -> None:
    """Fits that stopped short of no noise had a length .98 of the true one here, three standard errors of this median."""
    steps, length = np.arange(16) * 20, 600.0
    drift, walk, _ = persistence.parts(steps, length, 0.9)
    covariance = drift / drift[0, 0] + walk / walk[0, 0]
    rng, found = np.random.default_rng(6), []
    for increments in null.simulated_increments(covariance, 10_000, 60, rng):
        one = persistence.persistence(_gram(increments), steps, 0.9)
        assert one is not None
        found.append(one.length)
    assert np.median(found) == pytest.approx(length, rel=0.015)


def _gram(increments: np.ndarray) -> np.ndarray:
    gram = np.zeros((len(increments) + 1,) * 2)
    gram[1:, 1:] = increments.cumsum(0).cumsum(1)
    return gram
