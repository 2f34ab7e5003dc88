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

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from driftline.checkpoints.dtypes import round_to
from driftline.linearity import step_sizes
from driftline.linearity.kernels import PAPER_MIN_DISTINCT, PAPER_MIN_RANGE, R2_BINS, STRONG_R2
from driftline.linearity.scan import Population
from driftline.linearity.statistics import gram_of_increments, line_r2
from driftline.linearity.step_sizes import Moves, Sizes

Array = np.ndarray

_CORRECTIONS, _CORRECTED_BY, _CORRECT = 6, 1 << 17, 0.05  # of lengths: rounds, walks of each, and what is near enough
_VALUES = 1 << 23  # of the walks of a null that is not matched
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
    if (d >= m).all():
        factor *= np.tri(m, k=-1)
    else:
        factor *= np.where(d[:, :, None] < m, place < d[:, :, None], place < place[:, None])
    diagonal = np.sqrt(rng.chisquare(np.maximum(d - place, 1)))
    factor[:, place, place] += np.where(d < m, 0.0, diagonal)
    factor = root @ factor
    return factor @ factor.transpose(0, 2, 1) / d[:, :, None]


def population_of(r2: Array) -> Population:
    """The same record that the scan makes, of an array of R²; NaN is left out."""
    r2 = r2[np.isfinite(r2)]
    bins = np.minimum((r2 * R2_BINS).astype(int), R2_BINS - 1)
    return Population(r2.size, float(r2.sum()), int((r2 > STRONG_R2).sum()), np.bincount(bins, minlength=R2_BINS))


def null_r2(
    steps: Array, clock: Array, beta1: float, *, lengths: Array | None = None, draws: int | None = None, seed: int = 0
) -> Population:
    """R² on the clock of driftless walks with momentum, unrounded and unfiltered.

    Args:
        lengths: of the run's increments, [T-1]; by default those of a constant rate.
        draws: walks; by default 200,000, of more than 40 checkpoints fewer, down to 50,000: their median is known to .005.
    """
    root = walk_root(steps, beta1, lengths)
    rng = np.random.default_rng(seed)
    draws = draws or int(np.clip(_VALUES // len(steps), 50_000, 200_000))
    parts = batches(draws, max((1 << 21) // len(steps), 1))
    return sum_populations(
        population_of(line_r2(clock, rng.standard_normal((n, root.shape[1])) @ root.T)) for n in parts
    )


def matched_null_r2(
    steps: Array,
    clock: Array,
    beta1: float,
    tensors: Sequence[Moves],
    *,
    filter: str,
    lengths: Array | None = None,
    seed: int = 0,
) -> tuple[Population, float, float]:
    """R² of driftless walks that start where the run's parameters start, move as far, are rounded to
    their dtype at every checkpoint and pass the same filter.

    At step 0 the unrounded walk starts at the saved value, as a run does that starts from a rounded
    model; later, anywhere that rounds to it. Walks are drawn until enough are kept, or too many.

    Args:
        lengths: of the run's increments as saved, [T-1]; by default those of a constant rate.

    Returns:
        The population, and the shares of walks that change at all and that are kept.
    """
    drawn = _Drawn(tensors, steps[0] == 0, seed)
    root = drawn.root_of(steps, beta1, lengths)
    population = population_of(np.empty(0))
    walks = changed = 0
    while population.count < _ENOUGH and walks < _TOO_MANY and drawn.moving > 0:
        for values in drawn.saved(root, max(1, (1 << 22) // len(steps))):
            spans = np.ptp(values, axis=1)
            kept = values[spans > 0]
            changed += len(kept)
            if filter == "paper":
                kept = values[spans > PAPER_MIN_RANGE]
                kept = kept[1 + (np.diff(np.sort(kept, axis=1), axis=1) > 0).sum(1) >= PAPER_MIN_DISTINCT]
            population += population_of(line_r2(clock, (kept - kept[:, :1]).astype(np.float64)))
            walks += len(values)
    return population, drawn.moving * changed / max(walks, 1), drawn.moving * population.count / max(walks, 1)


class _Drawn:
    """Walks of the parameters that move, as they would be saved.

    Attributes:
        moving: share of all parameters that moves; 0 where what moves is not in the samples of the tensors, so that no
            walk like it can be drawn.
    """

    def __init__(self, tensors: Sequence[Moves], from_rounded: bool, seed: int) -> None:
        self.tensors, self.from_rounded = tensors, from_rounded
        self.rng = np.random.default_rng(seed)
        self.sizes: list[Sizes] = []
        self.moving = 0.0

    def root_of(self, steps: Array, beta1: float, lengths: Array | None) -> Array:
        """The walk [T, T-1] whose increments, once saved, are as long as the run's in proportion.

        Rounding hides small steps or makes large ones of them, so that the lengths of what was saved are not those of
        what was trained. They are corrected by what walks with the lengths so far are saved as.
        """
        root = self._fitted(walk_root(steps, beta1, lengths))
        if lengths is None or not self.moving:
            return root
        wanted = np.square(lengths) / np.mean(np.square(lengths))
        unsaved = lengths.astype(np.float64)
        for _ in range(_CORRECTIONS):
            parts = self.saved(root, _CORRECTED_BY)
            squares = sum(np.square(np.diff(part.astype(np.float64), axis=1)).sum(0) for part in parts)
            if not np.any(squares):
                break  # walks so small are saved as they were: nothing says how long they should be
            ratio = wanted / np.maximum(squares / np.mean(squares), 1e-12)
            if np.abs(np.log(ratio[wanted > 0])).max(initial=0.0) < _CORRECT:
                break
            # squares of what is saved grow as lengths where steps are far below the last place, as their squares above
            unsaved = unsaved * ratio**0.75
            root = self._fitted(walk_root(steps, beta1, unsaved))
        return root

    def _fitted(self, root: Array) -> Array:
        """The root with a mean squared increment of 1, and step sizes fitted to it."""
        root = root / np.sqrt(np.mean(np.sum(np.diff(root, axis=0) ** 2, axis=1)))
        rounded = step_sizes.rounded_moments(root, self.from_rounded, self.rng)
        self.sizes = [step_sizes.fit(moves, rounded) for moves in self.tensors]
        self.weights = np.array(
            [
                moves.parameters * sizes.share if np.isfinite(sizes.median) else 0.0
                for moves, sizes in zip(self.tensors, self.sizes, strict=True)
            ]
        )
        self.moving = float(self.weights.sum() / sum(moves.parameters for moves in self.tensors))
        return root

    def saved(self, root: Array, n: int) -> Iterator[Array]:
        """n walks [., T] in all, of each tensor as many as of its parameters move, in its dtype."""
        rng = self.rng
        shares = rng.multinomial(n, self.weights / self.weights.sum())
        for moves, sizes, count in zip(self.tensors, self.sizes, shares, strict=True):
            if not count:
                continue
            start = moves.start[rng.integers(0, moves.start.size, count)]
            hidden = step_sizes.hidden_part(count, self.from_rounded, rng)
            start = start + hidden * step_sizes.last_place(start, moves.dtype)
            size = np.exp(sizes.median + sizes.spread * rng.standard_normal(count))
            walk = rng.standard_normal((count, root.shape[1]), np.float32) @ root.T.astype(np.float32)
            with np.errstate(over="ignore"):
                values = round_to((start[:, None] + walk * size[:, None]).astype(np.float32), moves.dtype)
            yield values[np.isfinite(values).all(axis=1)]  # a walk does not leave the range that the run stayed in


def sum_populations(populations: Iterable[Population]) -> Population:
    first, *rest = populations
    for population in rest:
        first = first + population
    return first


def walk_root(steps: Array, beta1: float, lengths: Array | None = None) -> Array:
    """R [T, T-1] with R Rᵀ the walk's covariance; where `lengths` [T-1] are given, of one with such increments."""
    if lengths is None:
        covariance = walk_covariance(np.asarray(steps), beta1)[1:, 1:]
        return np.vstack([np.zeros(covariance.shape[0]), np.linalg.cholesky(covariance)])
    increments = lengths[:, None] * np.linalg.cholesky(increment_correlation(np.asarray(steps), beta1))
    return np.vstack([np.zeros(len(lengths)), increments.cumsum(0)])


def batches(draws: int, batch: int) -> list[int]:
    """Sizes of batches that make up so many draws."""
    return [batch] * (draws // batch) + ([draws % batch] if draws % batch else [])
