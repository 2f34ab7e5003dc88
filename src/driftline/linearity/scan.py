"""The one pass: every weight of every checkpoint, read once, in memory that does not grow with the model.

    for tensor in scan(open_trajectory("run")):
        print(tensor.name, tensor.population().mean_r2)

Each tensor is cut into stretches; a stretch's values at all T checkpoints are read and measured, chunk by
chunk, by one worker, a thread or a task on another machine, and come back as small sums. A tensor's sums are
added in the order of its stretches, so results do not depend on the number of workers.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from driftline.checkpoints import dtypes
from driftline.checkpoints.configuration import advancing
from driftline.checkpoints.low_rank import needs_base
from driftline.checkpoints.reasons import remedy
from driftline.checkpoints.tensors import KeptFiles, read_each
from driftline.checkpoints.trajectory import TensorSeries, Trajectory
from driftline.engines import Buffers, Engine, LocalEngine
from driftline.errors import InputError
from driftline.linearity import kernels
from driftline.linearity.statistics import gram_of_increments
from driftline.linearity.step_sizes import Moves, moves_of

FILTERS = {"none": kernels.NO_FILTER, "paper": kernels.PAPER_FILTER}
_CHUNK_BYTES = 8 << 20  # raw bytes of a chunk over all checkpoints, per worker
_ROW_BYTES, _LARGEST_CHUNK = 1 << 16, 32 << 20  # of one checkpoint at least, where many are not too much together
_STRETCH_BYTES = 128 << 20  # enough for a worker to be busy, few enough that all end at about the same time
_FETCHED = 8  # chunks that are read at once from a remote run, where each request costs a round trip
_CANDIDATES = 4096  # positions per tensor from which the samples are drawn


@dataclass
class Population:
    """R² over some parameters: exact count, sum and share above 0.7; the rest from a fine histogram."""

    count: int
    sum_r2: float
    strong: int
    histogram: np.ndarray  # [R2_BINS] counts

    @property
    def mean_r2(self) -> float:
        return self.sum_r2 / self.count if self.count else float("nan")

    @property
    def share_strong(self) -> float:
        return self.strong / self.count if self.count else float("nan")

    def quantile(self, q: float) -> float:
        """The q-quantile of R², within 0.001."""
        return histogram_quantile(self.histogram, q)

    def __add__(self, other: Population) -> Population:
        return Population(
            self.count + other.count,
            self.sum_r2 + other.sum_r2,
            self.strong + other.strong,
            self.histogram + other.histogram,
        )


def histogram_quantile(histogram: np.ndarray, q: float) -> float:
    """The q-quantile of values in [0, 1] counted in equal bins, linear inside a bin; NaN when empty."""
    total = histogram.sum()
    if total == 0:
        return float("nan")
    cumulative = np.concatenate([[0], np.cumsum(histogram)])
    bin_ = min(int(np.searchsorted(cumulative, q * total, side="left")) - 1, histogram.size - 1)
    bin_ = max(bin_, int(np.flatnonzero(histogram)[0]))
    inside = (q * total - cumulative[bin_]) / max(histogram[bin_], 1)
    return float((bin_ + np.clip(inside, 0, 1)) / histogram.size)


@dataclass
class TensorScan:
    """What the pass measured of one tensor (T checkpoints).

    Attributes:
        populations: [no filter, the paper's filter].
        distinct: parameters with 1, 2, 3 and 4 or more distinct values, [4].
        kept: parameters equal at both ends of each interval, [T - 1].
        gram: Gram matrix of the deltas from the first checkpoint, float64 [T, T].
        along_start: inner products of the deltas with the first checkpoint's weights, float64 [T].
        start_square: sum of squares of these; 0, and the products too, of an adapter without its base, whose weights
            are not known.
        sample: trajectories of up to `sample` changed parameters, seeded by the tensor's name, float32 [k, T].
        positions: their flat positions, [k].
        moves: how far a seeded sample of all parameters moved.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    size: int
    populations: tuple[Population, Population]
    distinct: np.ndarray
    mean_abs_slope: float
    rms_slope: float
    largest_range: float
    kept: np.ndarray
    gram: np.ndarray
    along_start: np.ndarray
    start_square: float
    sample: np.ndarray
    positions: np.ndarray
    moves: Moves

    @property
    def unchanged(self) -> int:
        return int(self.distinct[0])

    def population(self, filter: str = "none") -> Population:
        return self.populations[FILTERS[filter]]


@dataclass(frozen=True)
class _Stretch:
    """Flat elements [start, stop) of a tensor, to be read `length` at a time."""

    tensor: TensorSeries
    step_names: tuple[int, ...]
    start: int
    stop: int
    length: int  # parameters that are measured at once
    candidates: np.ndarray  # flat positions within [start, stop)

    @property
    def nbytes(self) -> int:
        return (self.stop - self.start) * sum(dtypes.ITEM_BYTES[info.dtype] for info in self.tensor.stored)


_buffers = Buffers()


def _read(tensor: TensorSeries, start: int, stop: int) -> np.ndarray:
    """Raw values [T, n] of a chunk: bfloat16 bits (uint16) where every checkpoint is bfloat16, else float32."""
    T, n = len(tensor.stored), stop - start
    if not all(info.dtype == "BF16" for info in tensor.stored):
        values = _buffers.get("raw", T * n * 4).view(np.float32).reshape(T, n)
        tensor.read(start, stop, values, _buffers.get("scratch", 8 * n))
        return values
    bits = _buffers.get("raw", T * n * 2).view(np.uint16).reshape(T, n)
    read_each(tensor.stored, start, list(bits.view(np.uint8)))
    return bits


def _as_float32(raw: np.ndarray) -> np.ndarray:
    if raw.dtype == np.float32:
        return raw
    values = np.empty(raw.shape, np.float32)
    dtypes.decode(np.ascontiguousarray(raw).view(np.uint8).reshape(raw.shape[0], -1), "BF16", values)
    return values


@dataclass
class _Sums:
    """What one stretch, or several stretches of one tensor, add up to."""

    populations: np.ndarray  # [2, 3]
    histograms: np.ndarray  # [2, R2_BINS]
    distinct: np.ndarray  # [4]
    slopes: np.ndarray  # [3]: sum of |slope|, sum of slope², largest range
    kept: np.ndarray  # [T - 1]
    gram: np.ndarray  # [T, T], lower triangle, of the first weights and the increments after it
    samples: list[np.ndarray]  # of [k, T]

    @classmethod
    def zeros(cls, T: int) -> _Sums:
        counts = np.zeros((2, kernels.R2_BINS), np.int64)
        return cls(
            np.zeros((2, 3)),
            counts,
            np.zeros(4, np.int64),
            np.zeros(3),
            np.zeros(T - 1, np.int64),
            np.zeros((T, T)),
            [],
        )

    def add(self, other: _Sums) -> None:
        self.populations += other.populations
        self.histograms += other.histograms
        self.distinct += other.distinct
        self.slopes[:2] += other.slopes[:2]
        self.slopes[2] = max(self.slopes[2], other.slopes[2])
        self.kept += other.kept
        self.gram += other.gram
        self.samples += other.samples


def _measure(stretch: _Stretch, tau: np.ndarray, files: KeptFiles) -> tuple[_Stretch, _Sums]:
    """The sums over a stretch, chunk after chunk, so that they do not depend on how many chunks are read at once."""
    sums = _Sums.zeros(tau.size)
    at_once = stretch.length * (_FETCHED if stretch.tensor.remote else 1)
    with files.use():
        for start in range(stretch.start, stretch.stop, at_once):
            stop = min(start + at_once, stretch.stop)
            raw = _read(stretch.tensor, start, stop)
            for first in range(0, stop - start, stretch.length):
                chunk = raw[:, first : first + stretch.length]
                _accumulate(stretch, start + first, np.ascontiguousarray(chunk), tau, sums)
    return stretch, sums


def _accumulate(stretch: _Stretch, start: int, raw: np.ndarray, tau: np.ndarray, sums: _Sums) -> None:
    finite = kernels.accumulate(
        raw,
        tau,
        sums.populations,
        sums.histograms,
        sums.distinct,
        sums.slopes,
        sums.kept,
        sums.gram,
    )
    if not finite or not np.isfinite(sums.gram).all():
        _refuse_not_finite(stretch, start, _as_float32(raw))
    first, last = np.searchsorted(stretch.candidates, [start, start + raw.shape[1]])
    sums.samples.append(_as_float32(raw[:, stretch.candidates[first:last] - start]).T)


def _refuse_not_finite(stretch: _Stretch, start: int, values: np.ndarray) -> None:
    for row, info, step in zip(values, stretch.tensor.stored, stretch.step_names, strict=True):
        bad = ~np.isfinite(row)
        if bad.any():
            raise InputError(
                f"{info.file}: tensor {info.name!r} at step {step} holds a weight that is not finite "
                f"(flat position {start + int(bad.argmax())}): leave that checkpoint out with --steps"
            )
    raise InputError(
        f"tensor {stretch.tensor.name!r} changes by more than float32 can hold: if it holds no weights, leave its checkpoints out with --steps"
    )


def _stretches(trajectory: Trajectory, seed: int) -> Iterator[_Stretch]:
    for tensor in trajectory:
        widest = max(dtypes.ITEM_BYTES[info.dtype] for info in tensor.stored)
        T = len(tensor.stored)
        chunk = max(_CHUNK_BYTES, min(T * _ROW_BYTES, _LARGEST_CHUNK))
        length = max(1024, chunk // (T * widest) // 1024 * 1024)
        stretch = length * max(1, _STRETCH_BYTES // chunk)
        candidates = _candidates(tensor.name, tensor.size, seed)
        for start in range(0, tensor.size, stretch):
            stop = min(start + stretch, tensor.size)
            first, last = np.searchsorted(candidates, [start, stop])
            yield _Stretch(tensor, trajectory.steps, start, stop, length, candidates[first:last])


def scan(
    trajectory: Trajectory,
    *,
    clock: Sequence[float] | np.ndarray | None = None,
    sample: int = 64,
    seed: int = 0,
    engine: Engine | None = None,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> Iterator[TensorScan]:
    """Measure every parameter of every tensor, in file order; one `TensorScan` as each tensor is done.

    Args:
        clock: what lines are drawn against, [T] strictly ascending; default the training steps.
        sample: trajectories of changed parameters to keep per tensor, for plots.
        seed: of that sample, together with the tensor's name.
        engine: where the work runs; default threads of this process.
        progress: called with the bytes read, as they are read.

    Raises:
        InputError: fewer than 3 checkpoints, a clock that stands still, a weight that is not finite, or
            a file that went away.
    """
    time = np.asarray(trajectory.steps if clock is None else clock, np.float64)
    if time.size < 3:
        raise InputError(
            f"{trajectory.name} has {time.size} usable checkpoint{'s' * (time.size != 1)}: a line needs at least 3; "
            f"{remedy(trajectory.steps, 3, trajectory.skipped)}"
        )
    advancing(trajectory.name, trajectory.steps, time)
    centred = time - time.mean()
    unit = np.sqrt(np.mean(centred**2))
    files = KeptFiles()
    measure = partial(_measure, tau=(centred / unit).astype(np.float32), files=files)
    total = _Sums.zeros(time.size)
    stretches = _stretches(trajectory, seed)
    results = (engine or LocalEngine()).map(measure, stretches, size=lambda stretch: stretch.nbytes)
    with closing(files), closing(results):
        for stretch, sums in results:
            total.add(sums)
            progress(stretch.nbytes)
            if stretch.stop == stretch.tensor.size:
                yield _finish(stretch.tensor, total, unit, sample, seed)
                total = _Sums.zeros(time.size)


def _finish(tensor: TensorSeries, total: _Sums, unit: float, sample: int, seed: int) -> TensorScan:
    candidates = np.concatenate(total.samples)
    changed = np.flatnonzero(np.ptp(candidates, axis=1) > 0)
    rng = _rng(tensor.name, seed)
    chosen = rng.permutation(changed)[:sample]
    populations = [
        Population(int(row[kernels.COUNT]), float(row[kernels.SUM_R2]), int(row[kernels.STRONG]), histogram)
        for row, histogram in zip(total.populations, total.histograms, strict=True)
    ]
    measured = max(populations[0].count, 1)
    gram, along, square = _products(total.gram)
    if needs_base(tensor.stored[0]):
        along, square = np.zeros_like(along), 0.0
    return TensorScan(
        name=tensor.name,
        shape=tensor.shape,
        dtype=tensor.dtype,
        size=tensor.size,
        populations=(populations[0], populations[1]),
        distinct=total.distinct,
        mean_abs_slope=float(total.slopes[0] / measured / unit),
        rms_slope=float(np.sqrt(total.slopes[1] / measured) / unit),
        largest_range=float(total.slopes[2]),
        kept=total.kept,
        gram=gram,
        along_start=along,
        start_square=square,
        sample=candidates[chosen],
        positions=_candidates(tensor.name, tensor.size, seed)[chosen],
        moves=moves_of(candidates[rng.permutation(len(candidates))], tensor.size, tensor.dtype),
    )


def _products(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """The Gram of the deltas, their products with the first weights, and the square of these."""
    full = sums + np.tril(sums, -1).T
    return gram_of_increments(full[1:, 1:]), np.concatenate([[0.0], full[0, 1:].cumsum()]), float(full[0, 0])


def _rng(name: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


@lru_cache(maxsize=64)  # asked for when a tensor is cut into chunks and when it is done
def _candidates(name: str, size: int, seed: int) -> np.ndarray:
    """Flat positions of a tensor, ascending, that may enter the samples."""
    return np.unique(_rng(name, seed).integers(0, size, min(_CANDIDATES, size)))
