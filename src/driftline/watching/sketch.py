"""A checkpoint in constant size: a linear sketch of all its weights, and the values of a seeded sample of them.

The sketch adds every weight, with a pseudo-random sign, into one of m buckets (Charikar et al. 2002; the signed
fold is a sparse Johnson-Lindenstrauss map). It is linear, so the sketch of a difference is the difference of
sketches; and <S x, S y> estimates <x, y> with a standard error of at most sqrt(2 / m) ||x|| ||y||, whatever the
weights: a sample of the weights would have no such bound where a few of them hold most of the change. A model
of at most m weights is its own sketch, up to signs, and inner products are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from driftline.checkpoints.trajectory import TensorSeries, Trajectory
from driftline.compiled import njit
from driftline.engines import LocalEngine
from driftline.errors import UnreadableCheckpoint

BUCKETS = 1_048_573  # a prime, so that neither rows nor columns of a matrix gather in few buckets
SAMPLE = 1 << 20
_CHUNK = 1 << 20  # weights
_THREADS = 2  # that read; a trainer has the rest of the machine


@dataclass(frozen=True)
class TensorRange:
    """One tensor of the parameters that are followed, as they lie one after the other."""

    name: str
    shape: tuple[int, ...]
    start: int  # of its first weight among all N

    @property
    def stop(self) -> int:
        return self.start + int(np.prod(self.shape, dtype=np.int64))


def parts_of(trajectory: Trajectory) -> list[TensorRange]:
    """The tensors of a run, laid one after the other in order of name, so that shards may be cut anew."""
    parts, start = [], 0
    for tensor in sorted(trajectory, key=lambda tensor: tensor.name):
        parts.append(TensorRange(tensor.name, tensor.shape, start))
        start = parts[-1].stop
    return parts


def sample_positions(parameters: int, sample: int, seed: int) -> np.ndarray:
    """Ascending positions among N weights: one drawn from each of `sample` equal stretches; all if there are fewer."""
    if parameters <= sample:
        return np.arange(parameters)
    drawn = np.arange(sample) + np.random.default_rng(seed).random(sample)
    return np.minimum((drawn * (parameters / sample)).astype(np.int64), parameters - 1)


@njit(nogil=True, cache=True)
def fold(values, start, sketch):
    """Add weights [n], the first of which is number `start`, into `sketch` [m] with their signs."""
    bucket = start % sketch.size
    bits = np.uint64(0)
    for i in range(values.size):
        place = (start + i) & 63
        if i == 0 or place == 0:  # 64 signs at a time: splitmix64 of the number
            bits = np.uint64((start + i) >> 6) * np.uint64(0x9E3779B97F4A7C15)
            bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            bits ^= bits >> np.uint64(31)
        if (bits >> np.uint64(place)) & np.uint64(1):
            sketch[bucket] -= values[i]
        else:
            sketch[bucket] += values[i]
        bucket += 1
        if bucket == sketch.size:
            bucket = 0


def read_checkpoint(
    tensors: dict[str, TensorSeries],
    parts: list[TensorRange],
    positions: np.ndarray,
    *,
    progress: Callable[[int], None] = lambda weights: None,
) -> tuple[np.ndarray, np.ndarray]:
    """One checkpoint in one pass: sample float32 [n], sketch float64 [m]; memory does not grow with the model.

    Raises:
        UnreadableCheckpoint: a weight that is not finite, or a file that went away or shrank.
    """
    sample = np.empty(positions.size, np.float32)
    sketch = np.zeros(min(BUCKETS, parts[-1].stop))
    for part, start, values in LocalEngine(_THREADS).map(_read, _chunks(tensors, parts)):
        first, last = np.searchsorted(positions, [part.start + start, part.start + start + values.size])
        sample[first:last] = values[positions[first:last] - part.start - start]
        fold(values, part.start + start, sketch)
        progress(values.size)
    return sample, sketch


_Chunk = tuple[TensorRange, TensorSeries, int, int]


def _chunks(tensors: dict[str, TensorSeries], parts: list[TensorRange]) -> Iterator[_Chunk]:
    for part in parts:
        size = part.stop - part.start
        for start in range(0, size, _CHUNK):
            yield part, tensors[part.name], start, min(start + _CHUNK, size)


def _read(chunk: _Chunk) -> tuple[TensorRange, int, np.ndarray]:
    part, tensor, start, stop = chunk
    values = np.empty((1, stop - start), np.float32)
    tensor.read(start, stop, values, np.empty(8 * (stop - start), np.uint8))
    finite = np.isfinite(values[0])
    if not finite.all():
        where = start + int(finite.argmin())
        raise UnreadableCheckpoint(
            f"{tensor.stored[0].file}: tensor {part.name!r} holds a weight that is not finite (flat position {where})"
        )
    return part, start, values[0]
