"""The pass over the weights: chunk by chunk, each read once for all forecasts, in bounded memory."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from driftline.checkpoints import dtypes, safetensors_writer
from driftline.checkpoints.safetensors_writer import write_range
from driftline.checkpoints.tensors import read_each
from driftline.checkpoints.trajectory import TensorSeries
from driftline.engines import Buffers, Engine
from driftline.errors import InputError
from driftline.writing.combine import combine_bfloat16, combine_checkpoints, decoded, encode, losses, wide_losses
from driftline.writing.tensor_plan import Mixture, TensorPlan

Array = np.ndarray

_FLUSHED_BYTES = 256 << 20  # written before the disk is asked to take them
_LONGEST_CHUNK = 1 << 19  # weights: a megabyte of bfloat16 for each checkpoint
_CHUNK_BYTES = 20 << 20  # of one worker's buffers
_FETCHED = 8  # times as much is read at once from a remote run, where each request costs a round trip

_buffers = Buffers()


@dataclass
class Loss:
    """What rounding did to one forecast: squared norms of its error, and of the move from the first checkpoint used."""

    lost: float = 0.0
    moved: float = 0.0

    @property
    def share(self) -> float:
        """||rounding error|| / ||forecast - first checkpoint used||."""
        return math.sqrt(self.lost / self.moved) if self.moved > 0 else 0.0


@dataclass(frozen=True)
class _Chunk:
    """Flat elements [start, stop) of a tensor."""

    plan: TensorPlan
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start

    @property
    def nbytes(self) -> int:
        """Of the last checkpoint."""
        return self.size * dtypes.ITEM_BYTES[self.plan.output.info.dtype]

    @property
    def shard(self) -> str:
        return self.plan.output.placed.shard

    def put(self, folder: Path, raw: Array) -> None:
        """Write the chunk's elements, in the output's dtype, where they belong in the folder."""
        item = dtypes.ITEM_BYTES[self.plan.output.dtype]
        write_range(folder / self.shard, self.plan.output.placed.offset + self.start * item, raw.view(np.uint8))


@dataclass(frozen=True)
class _Done:
    """A chunk that is written: its bytes in the last checkpoint, its shard, and (lost, moved) of each forecast."""

    nbytes: int
    shard: str
    sums: list[tuple[float, float]]


def stream(
    plans: Sequence[TensorPlan],
    folders: Sequence[Path],
    handles: Sequence[dict[str, int]],
    steps: tuple[int, ...],
    *,
    seed: int,
    engine: Engine,
    progress: Callable[[int], None],
) -> list[Loss]:
    """Fill the reserved shards of every forecast.

    Args:
        folders: one for each forecast, as are the plans' mixtures; handles: the shards' descriptors in each.
        steps: of the run's checkpoints, for sentences; seed: of stochastic rounding.

    Raises:
        InputError: a weight is not finite, or a forecast is too large for its dtype.
    """
    found = [Loss() for _ in folders]
    store = partial(_store, folders=folders, steps=steps, seed=seed)
    settle = partial(_settle, folders=folders)
    unflushed = 0
    with ThreadPoolExecutor(1) as flusher:  # the disk takes what is there meanwhile
        for done in engine.map(store, _chunks(plans), size=lambda chunk: chunk.nbytes, settle=settle):
            for loss, (lost, moved) in zip(found, done.sums, strict=True):
                loss.lost += lost
                loss.moved += moved
            progress(done.nbytes)
            unflushed += done.nbytes * len(folders)
            if unflushed > _FLUSHED_BYTES:
                unflushed = 0
                for files in handles:
                    flusher.submit(os.fdatasync, files[done.shard])
        for files in handles:
            for handle in files.values():
                os.fsync(handle)
    return found


def _chunks(plans: Sequence[TensorPlan]) -> Iterator[_Chunk]:
    for plan in plans:
        size = plan.output.info.size
        if plan.whole:
            yield _Chunk(plan, 0, size)
            continue
        per_weight = 4 * 2 * max(len(plan.rows), 1) + 24  # read, picked, and: forecast, rounded, decoded, scratch
        length = min(_LONGEST_CHUNK, max(1024, _CHUNK_BYTES // per_weight))
        if plan.remote:
            length *= _FETCHED
        for start in range(0, size, length):
            yield _Chunk(plan, start, min(start + length, size))


def _settle(chunks: Sequence[_Chunk], folders: Sequence[Path]) -> None:
    """Have the disk take what this machine wrote: the process that renames the result may run on another one."""
    for file in {folder / chunk.shard for chunk in chunks for folder in folders}:
        safetensors_writer.settle(file)


def _store(chunk: _Chunk, *, folders: Sequence[Path], steps: tuple[int, ...], seed: int) -> _Done:
    """Make and write one chunk of every forecast."""
    series = chunk.plan.series
    if series is None:
        sums = _copy(chunk, folders)
    elif chunk.plan.fused:
        sums = _store_bfloat16(chunk, series, folders, steps)
    else:
        sums = _store_any(chunk, series, folders, steps, seed)
    return _Done(chunk.nbytes, chunk.shard, sums)


def _copy(chunk: _Chunk, folders: Sequence[Path]) -> list[tuple[float, float]]:
    raw = np.empty(chunk.nbytes, np.uint8)
    chunk.plan.output.info.read_into(chunk.start, raw)
    for folder in folders:
        chunk.put(folder, raw)
    return [(0.0, 0.0)] * len(folders)


def _store_any(
    chunk: _Chunk, series: TensorSeries, folders: Sequence[Path], steps: tuple[int, ...], seed: int
) -> list[tuple[float, float]]:
    """Any dtype in and out, any rounding, by way of float32."""
    plan, n, dtype = chunk.plan, chunk.size, chunk.plan.output.dtype
    values = _buffers.get("values", 4 * len(plan.rows) * n).view(np.float32).reshape(len(plan.rows), n)
    series.read(chunk.start, chunk.stop, values, _buffers.get("scratch", 8 * n))
    sums = []
    for folder, mixture in zip(folders, plan.mixtures, strict=True):
        used = _rows(values, mixture)
        exact = _forecast(plan, mixture, used)
        raw = encode(exact, dtype, stochastic=plan.stochastic, seed=seed, name=series.name, first=chunk.start)
        lost, moved = losses(exact, decoded(raw, dtype), used[0])
        if not math.isfinite(lost + moved):
            lost, moved = wide_losses(exact, decoded(raw, dtype), used[0])
        if not math.isfinite(lost + moved):
            _refuse_not_finite(chunk, series, mixture, used, steps)
        chunk.put(folder, raw)
        sums.append((lost, moved))
    return sums


def _forecast(plan: TensorPlan, mixture: Mixture, used: Array) -> Array:
    """A chunk's forecast, float32 [n], in a buffer that the next call takes again."""
    if mixture.rule is not None:
        assert plan.output.series is not None
        return mixture.rule.forecast(plan.output.series)
    out = _buffers.get("out", used[0].nbytes).view(np.float32)
    combine_checkpoints(used, mixture.coefficients, out)
    return out


def _store_bfloat16(
    chunk: _Chunk, series: TensorSeries, folders: Sequence[Path], steps: tuple[int, ...]
) -> list[tuple[float, float]]:
    """The usual case, bfloat16 in and out, in one fused kernel: no float32 copy of anything is made."""
    plan, n = chunk.plan, chunk.size
    raw = _buffers.get("raw", 2 * len(plan.rows) * n).view(np.uint16).reshape(len(plan.rows), n)
    read_each(series.stored, chunk.start, list(raw.view(np.uint8)))
    out = _buffers.get("out", 2 * n).view(np.uint16)
    sums = []
    for folder, mixture in zip(folders, plan.mixtures, strict=True):
        used = _rows(raw, mixture)
        lost, moved = combine_bfloat16(used, mixture.coefficients, out)
        if not math.isfinite(lost + moved):
            values, exact = np.stack([decoded(bits, "BF16") for bits in used]), np.empty(n, np.float32)
            combine_checkpoints(values, mixture.coefficients, exact)
            lost, moved = wide_losses(exact, decoded(out, "BF16"), values[0])
            if not math.isfinite(lost + moved):
                _refuse_not_finite(chunk, series, mixture, values, steps)
        chunk.put(folder, out)
        sums.append((lost, moved))
    return sums


def _rows(values: Array, mixture: Mixture) -> Array:
    """The rows of `values` [K, n] that the mixture takes; not copied where it takes all."""
    return values if len(mixture.rows) == len(values) else values[list(mixture.rows)]


def _refuse_not_finite(
    chunk: _Chunk, series: TensorSeries, mixture: Mixture, values: Array, steps: tuple[int, ...]
) -> None:
    for row, place in zip(values, mixture.rows, strict=True):
        bad = ~np.isfinite(row)
        if bad.any():
            raise InputError(
                f"{series.stored[place].file}: tensor {series.name!r} at step {steps[chunk.plan.rows[place]]} holds a "
                f"weight that is not finite (flat position {chunk.start + int(bad.argmax())}): choose other steps with --from"
            )
    raise InputError(
        f"the forecast of tensor {series.name!r} is too large for {chunk.plan.output.dtype}: choose a nearer target or --dtype"
    )
