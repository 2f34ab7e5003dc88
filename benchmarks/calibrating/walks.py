"""Increments of simulated runs, exact in distribution: updates are filtered Gaussian noise in so many directions, plus drift."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Array = np.ndarray


def momentum(steps: int, beta1: float, *, before: int = 200) -> Array:
    """H [steps, before + steps]: the update of step s is sum_j H[s, j] g_j of unit noise g, with a history of `before` steps."""
    lag = np.arange(before + steps)[:, None] - np.arange(before + steps)[None, :]
    return ((1 - beta1) * np.where(lag >= 0, beta1 ** np.maximum(lag, 0), 0.0))[before:]


def covariance(updates: Array, steps: Sequence[int] | Array) -> Array:
    """Covariance [T - 1, T - 1] of the increments between checkpoints at `steps`, per direction, of updates [S, J]."""
    at = np.asarray(steps) - steps[0]
    increments = np.diff(np.vstack([np.zeros(updates.shape[1]), updates.cumsum(0)])[at], axis=0)
    return increments @ increments.T


def walk(steps: Sequence[int] | Array, beta1: float) -> Array:
    """The same of a driftless walk with momentum."""
    return covariance(momentum(int(steps[-1] - steps[0]), beta1), steps)


def increments(cov: Array, directions: int, rng: np.random.Generator, drift: Array | float = 0.0) -> Array:
    """Gram C [T - 1, T - 1] of one run's increments in so many directions, by Wishart's law.

    Args:
        drift: length of each interval's drift [T - 1], all along one fixed direction, in units of the mean length of
            an interval's noise.
    """
    m = len(cov)
    root = np.linalg.cholesky(cov + 1e-12 * np.trace(cov) / m * np.eye(m))
    if directions <= 4 * m:
        noise = root @ rng.standard_normal((m, directions))
        along, rest = noise[:, 0], noise[:, 1:] @ noise[:, 1:].T
    else:  # Bartlett's triangle for all directions but one, in place of so many normals
        factor = np.tril(rng.standard_normal((m, m)), -1)
        factor[range(m), range(m)] = np.sqrt(rng.chisquare(directions - 1 - np.arange(m)))
        along, rest = root @ rng.standard_normal(m), (root @ factor) @ (root @ factor).T
    along = along + drift * np.sqrt(directions * np.diag(cov).mean())
    return rest + np.outer(along, along)
