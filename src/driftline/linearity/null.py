"""What chance gives: a driftless random walk matched to the run.

A driftless walk regressed on time has mean R² of about 0.44 whatever its length (Nelson & Kang 1984),
its first principal component holds 8/pi² of its energy, and Adam's momentum makes its neighbouring
increments point the same way. So every figure of a run is shown beside the same figure of a walk with
the run's checkpoints, its optimizer's momentum, and, where they matter, its rounding and filter.

The walk: updates u_s with correlation beta1^|s - s'| and no mean. Its covariance at the checkpoints
is known exactly, and in many dimensions its Gram matrix is that covariance; so statistics of the Gram
need no simulation, except for their spread.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from driftline.checkpoints.dtypes import round_to
from driftline.linearity import step_sizes
from driftline.linearity.kernels import PAPER_MIN_DISTINCT, PAPER_MIN_RANGE, R2_BINS, STRONG_R2
from driftline.linearity.scan import Population
from driftline.linearity.statistics import gram_of_increments, line_r2
from driftline.linearity.step_sizes import Moves

Array = np.ndarray

_ENOUGH, _TOO_MANY = 100_000, 4_000_000  # walks kept, and drawn, for a matched null


def walk_covariance(steps: Array, beta1: float) -> Array:
    """Covariance [T, T] of W(s) - W(s_0) for unit updates with momentum, at the given steps.

    Increments are stationary, so cov(s, s') = (V(s) + V(s') - V(|s - s'|)) / 2 with the variance of n
    steps V(n) = n (1 + b) / (1 - b) - 2 b (1 - b^n) / (1 - b)².
    """
    time = np.asarray(steps, np.float64) - steps[0]
    b = beta1

    def variance(n: Array) -> Array:
        return n * (1 + b) / (1 - b) - 2 * b * (1 - b**n) / (1 - b) ** 2

    return (variance(time)[:, None] + variance(time)[None, :] - variance(np.abs(time[:, None] - time[None, :]))) / 2


def increment_correlation(steps: Array, beta1: float) -> Array:
    """Correlations [T-1, T-1] between the walk's increments over the run's intervals."""
    covariance = np.diff(np.diff(walk_covariance(steps, beta1), axis=0), axis=1)
    scale = 1 / np.sqrt(np.diag(covariance))
    return covariance * scale[:, None] * scale[None, :]


def matched_gram(steps: Array, beta1: float, increment_norms: Array) -> Array:
    """The Gram [T, T] of a driftless walk whose increments have the run's own lengths."""
    return gram_of_increments(increment_correlation(steps, beta1) * np.outer(increment_norms, increment_norms))


def simulated_increments(covariance: Array, dimensions: float | Array, draws: int, rng: np.random.Generator) -> Array:
    """Increments' Grams [draws, T-1, T-1] of walks in so many dimensions, one number or one for each (Wishart / dimensions)."""
    m = covariance.shape[0]
    root = np.linalg.cholesky(covariance + 1e-12 * np.trace(covariance) / m * np.eye(m))
    d = np.broadcast_to(np.maximum(np.rint(dimensions), 1), draws)[:, None]
    # Bartlett's decomposition: a triangle in place of m x d normals; with fewer dimensions than increments, all d columns
    place = np.arange(m)
    factor = rng.standard_normal((draws, m, m))
    filled = np.where(d[:, :, None] < m, place < d[:, :, None], place < place[:, None])
    diagonal = np.sqrt(rng.chisquare(np.maximum(d - place, 1)))
    factor = np.where(filled, factor, 0.0) + np.where(d < m, 0.0, diagonal)[:, :, None] * np.eye(m)
    factor = root @ factor
    return factor @ factor.transpose(0, 2, 1) / d[:, :, None]


def population_of(r2: Array) -> Population:
    """The same record that the scan makes, of an array of R²; NaN is left out."""
    r2 = r2[np.isfinite(r2)]
    bins = np.minimum((r2 * R2_BINS).astype(int), R2_BINS - 1)
    return Population(r2.size, float(r2.sum()), int((r2 > STRONG_R2).sum()), np.bincount(bins, minlength=R2_BINS))


def null_r2(steps: Array, clock: Array, beta1: float, *, draws: int = 200_000, seed: int = 0) -> Population:
    """R² on the clock of driftless walks with momentum, unrounded and unfiltered."""
    root = walk_root(steps, beta1)
    rng = np.random.default_rng(seed)
    parts = batches(draws, max((1 << 21) // len(steps), 1))
    return sum_populations(
        population_of(line_r2(clock, rng.standard_normal((n, root.shape[1])) @ root.T)) for n in parts
    )


def matched_null_r2(
    steps: Array, clock: Array, beta1: float, tensors: Sequence[Moves], *, filter: str, seed: int = 0
) -> tuple[Population, float, float]:
    """R² of driftless walks that start where the run's parameters start, move as far, are rounded to
    their dtype at every checkpoint and pass the same filter.

    At step 0 the unrounded walk starts at the saved value, as a run does that starts from a rounded
    model; later, anywhere that rounds to it. Walks are drawn until enough are kept, or too many.

    Returns:
        The population, and the shares of walks that change at all and that are kept.
    """
    rng = np.random.default_rng(seed)
    root = walk_root(steps, beta1)
    root = root / np.sqrt(np.mean(np.sum(np.diff(root, axis=0) ** 2, axis=1)))
    from_rounded = steps[0] == 0
    rounded = step_sizes.rounded_moments(root, from_rounded, rng)
    sizes = np.array([step_sizes.fit(moves, rounded) for moves in tensors])
    still = not np.isfinite(sizes[:, 0]).any()  # what moves is not in the samples, so no walk like it can be drawn
    share = np.array([moves.parameters for moves in tensors], float)
    population = population_of(np.empty(0))
    drawn = changed = 0
    while population.count < _ENOUGH and drawn < _TOO_MANY and not still:
        for index, n in enumerate(rng.multinomial(max(1, (1 << 22) // len(steps)), share / share.sum())):
            moves, (median, spread) = tensors[index], sizes[index]
            start = moves.start[rng.integers(0, moves.start.size, n)]
            start = start + step_sizes.hidden_part(n, from_rounded, rng) * step_sizes.last_place(start, moves.dtype)
            size = np.exp(median + spread * rng.standard_normal(n))
            walk = (rng.standard_normal((n, root.shape[1]), np.float32) @ root.T.astype(np.float32)) * size[:, None]
            with np.errstate(over="ignore"):
                values = round_to((start[:, None] + walk).astype(np.float32), moves.dtype)
            values = values[np.isfinite(values).all(axis=1)]  # a walk does not leave the range that the run stayed in
            spans = np.ptp(values, axis=1)
            kept = values[spans > 0]
            changed += len(kept)
            if filter == "paper":
                kept = values[spans > PAPER_MIN_RANGE]
                kept = kept[1 + (np.diff(np.sort(kept, axis=1), axis=1) > 0).sum(1) >= PAPER_MIN_DISTINCT]
            population += population_of(line_r2(clock, (kept - kept[:, :1]).astype(np.float64)))
            drawn += n
    return population, changed / max(drawn, 1), population.count / max(drawn, 1)


def sum_populations(populations: Iterable[Population]) -> Population:
    first, *rest = populations
    for population in rest:
        first = first + population
    return first


def walk_root(steps: Array, beta1: float) -> Array:
    """R [T, T-1] with R Rᵀ the walk's covariance."""
    covariance = walk_covariance(np.asarray(steps), beta1)[1:, 1:]
    return np.vstack([np.zeros(covariance.shape[0]), np.linalg.cholesky(covariance)])


def batches(draws: int, batch: int) -> list[int]:
    """Sizes of batches that make up so many draws."""
    return [batch] * (draws // batch) + ([draws % batch] if draws % batch else [])
