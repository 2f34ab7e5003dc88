"""AlphaRL (arXiv 2510.00553): each matrix's rank-1 update as a function of the score, not of the step.

For every 2-D tensor inside the layers the update D_t = W_t - W_0 is cut to sigma_1 u_1 v_1ᵀ; the path of
sigma_1 u_1, signs aligned from step to step, is regressed on the checkpoints' scores by partial least
squares with one component; inverted at a target score it gives back a vector, and with the last
checkpoint's v_1 the forecast W_0 + vector v_1ᵀ. Embeddings, norms and biases stay those of the last
checkpoint. Written from the paper's method; its script adds to the last checkpoint instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from driftline._version import __version__
from driftline.checkpoints.trajectory import TensorSeries, Trajectory
from driftline.errors import InputError, first_line
from driftline.files.json import read_given_json
from driftline.forecast.forecast import Forecast, Origin, Plan
from driftline.forecast.rank_one import is_matrix_of_a_layer, read_matrix

Array = np.ndarray

_FEWEST = 3  # scored checkpoints after the first


@dataclass(frozen=True)
class AlphaRL:
    """The rule: `scores` of the checkpoints [T] (the first may be NaN), and the score to reach."""

    scores: tuple[float, ...]
    target: float

    @classmethod
    def fitted_to(cls, trajectory: Trajectory, scores: Path | None, target: float | None) -> AlphaRL:
        """Read the scores of the run's steps.

        Args:
            scores: JSON object, step to score.

        Raises:
            InputError: scikit-learn is missing, or the file lacks a step, is no such object or does not vary.
        """
        if scores is None or target is None:
            raise InputError("--method alpharl needs --scores FILE (JSON, step to score) and --target-score X")
        if not math.isfinite(target):
            raise InputError(f"--target-score {target} is not a finite number: give one")
        try:
            import sklearn  # noqa: F401
        except ImportError as error:
            raise InputError("--method alpharl needs scikit-learn: pip install 'driftline[alpharl]'") from error
        try:
            read = {int(step): float(score) for step, score in read_given_json(scores).items()}
        except (OSError, ValueError, TypeError, AttributeError, OverflowError) as error:
            raise InputError(
                f"--scores {scores} is not a JSON object of step to score ({getattr(error, 'strerror', None) or first_line(error)}): write one"
            ) from error
        listed = tuple(read.get(step, math.nan) for step in trajectory.steps)
        for step, score in zip(trajectory.steps[1:], listed[1:], strict=True):
            if not math.isfinite(score):
                raise InputError(
                    f"--scores {scores} has no score for step {step}: add it, or leave the step out with --steps"
                )
        if len(listed) <= _FEWEST or len(set(listed[1:])) == 1:
            raise InputError(
                f"--scores {scores}: {len(listed) - 1} scored checkpoints after the first, {len(set(listed[1:]))} different "
                f"scores; it takes {_FEWEST} checkpoints whose scores vary, so score more of them"
            )
        return cls(listed, float(target))

    def applies(self, tensor: TensorSeries) -> bool:
        return is_matrix_of_a_layer(tensor)

    def forecast(self, tensor: TensorSeries) -> Array:
        """The tensor at the target score, float32 [size]; one checkpoint of it in memory at a time."""
        from scipy.sparse.linalg import svds
        from sklearn.cross_decomposition import PLSRegression

        first = read_matrix(tensor, 0)
        path, right = np.zeros((len(tensor.stored) - 1, tensor.shape[0])), np.zeros(tensor.shape[1])
        start = np.ones(min(tensor.shape)) / math.sqrt(min(tensor.shape))
        for row in range(1, len(tensor.stored)):
            update = read_matrix(tensor, row) - first
            if not update.any():
                continue
            u, sigma, v = svds(update, k=1, v0=start)
            left, right = u[:, 0] * float(sigma[0]), v[0]
            sign = -1.0 if row > 1 and left @ path[row - 2] < 0 else 1.0
            path[row - 1], right = sign * left, sign * right
        scores = np.array(self.scores[1:])
        centre, spread = scores.mean(), scores.std()
        mean = path.mean(0)
        if not (path != mean).any():
            return first.ravel()
        fitted = PLSRegression(n_components=1, scale=False).fit(path - mean, (scores - centre) / spread)
        along = (self.target - centre) / spread / fitted.y_loadings_[0, 0]
        left = mean + along * fitted.x_loadings_[:, 0]
        return (first + np.outer(left, right).astype(np.float32)).ravel()


def plan(trajectory: Trajectory, scores: Path | None, target: float | None) -> Plan:
    """The forecast at score `target`, by the rule where it applies and the last checkpoint elsewhere.

    Raises:
        InputError: see `AlphaRL.fitted_to`.
    """
    rule = AlphaRL.fitted_to(trajectory, scores, target)
    T = len(trajectory.steps)
    first, last = np.eye(T)[0], np.eye(T)[-1]
    coefficients = {tensor.name: first if rule.applies(tensor) else last for tensor in trajectory}
    assert target is not None  # the rule is fitted to it
    origin = Origin(
        driftline=__version__,
        target=target,
        method="alpharl",
        observed=list(trajectory.steps),
        scores={str(step): score for step, score in zip(trajectory.steps, rule.scores, strict=True)},
        by_rule=[tensor.name for tensor in trajectory if rule.applies(tensor)],
    )
    sentence = f"alpharl at score {target:g}, from {T} scored checkpoints"
    return Plan(trajectory, (Forecast(coefficients, origin, rule),), sentence, False)
