"""The leading direction of a change of a matrix, sigma u vᵀ, with u and v of unit length.

By subspace iteration (Halko, Martinsson & Tropp 2011, algorithm 4.4) with a block of a few columns, carried on until
sigma settles: the full decomposition of a large matrix takes minutes, this a second. u and v are known but for a
common sign; it is chosen such that they agree with those of an earlier change.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from driftline.checkpoints.trajectory import TensorSeries
from driftline.linearity.names import layer_and_module

Array = np.ndarray

_BLOCK = 8  # columns
_SETTLED = 1e-6  # relative change of sigma from one round to the next
_ROUNDS = 100


@dataclass(frozen=True)
class RankOne:
    """sigma u vᵀ: `left` [m] and `right` [n] of unit length, float32; all 0 where nothing changed."""

    left: Array
    sigma: float
    right: Array

    def agreeing(self, other: RankOne) -> RankOne:
        """The same matrix, with the sign that agrees with the directions of `other`."""
        agreement = float(self.left @ other.left + self.right @ other.right)
        return RankOne(-self.left, self.sigma, -self.right) if agreement < 0 else self

    def oriented(self) -> RankOne:
        """The same matrix, with the largest element of v above 0."""
        return self.agreeing(RankOne(0 * self.left, 0.0, np.eye(self.right.size)[int(np.abs(self.right).argmax())]))


def leading(matrix: Array) -> RankOne:
    """Of a float32 matrix [m, n]: the sigma u vᵀ that is nearest to it; the same bits every time."""
    m, n = matrix.shape
    block = np.random.default_rng(0).standard_normal((n, min(_BLOCK, m, n))).astype(np.float32)
    before = 0.0
    for _ in range(_ROUNDS):
        basis = np.linalg.qr(matrix @ block)[0]
        u, sigmas, v = np.linalg.svd(basis.T @ matrix, full_matrices=False)
        sigma = float(sigmas[0])
        if sigma - before <= _SETTLED * sigma:
            break
        before, block = sigma, v.T
    if not sigma > 0:
        return RankOne(np.zeros(m, np.float32), 0.0, np.zeros(n, np.float32))
    return RankOne(basis @ u[:, 0], sigma, v[0])


def is_matrix_of_a_layer(tensor: TensorSeries) -> bool:
    layer, _ = layer_and_module(tensor.name)
    return layer is not None and len(tensor.shape) == 2 and min(tensor.shape) > 1


def read_matrix(tensor: TensorSeries, row: int) -> Array:
    """The tensor at the checkpoint of that row, float32, in its shape."""
    values, scratch = np.empty((1, tensor.size), np.float32), np.empty(8 * tensor.size, np.uint8)
    stored = (tensor.stored[row],)
    TensorSeries(tensor.name, tensor.shape, stored).read(0, tensor.size, values, scratch)
    return values.reshape(tensor.shape)
