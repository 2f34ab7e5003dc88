"""Writing forecast models: one streaming pass, only the checkpoints that count, bounded memory.

The inputs are read once for all targets. Every output is a Hugging Face folder: weights in shards with an
index, the configuration, tokenizer and chat template of the last checkpoint, a model card, and
`driftline.json`, the recipe that makes the same bytes again.
"""

from __future__ import annotations

import fnmatch
import json
import math
import os
import re
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from blake3 import blake3

from driftline._version import __version__
from driftline.checkpoints import dtypes
from driftline.checkpoints.layouts import huggingface
from driftline.checkpoints.low_rank import needs_base
from driftline.checkpoints.tensors import TensorInfo, read_each
from driftline.checkpoints.trajectory import TensorSeries, Trajectory
from driftline.engines import Buffers, Engine, LocalEngine
from driftline.errors import InputError, UnreadableCheckpoint
from driftline.files import remote
from driftline.files.json import json_text
from driftline.writing.card import card
from driftline.writing.combine import combine, combine_bfloat16, decoded, encode, losses

Array = np.ndarray

NORM_LAYERS = ("*norm*", "*ln_*")  # the reference code's selection by substring
DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_CONFIG_NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_HASH_BLOCK = 1 << 16
_FLUSHED_BYTES = 256 << 20  # written before the disk is asked to take them
_LONGEST_CHUNK = 1 << 19  # weights: a megabyte of bfloat16 for each checkpoint
_CHUNK_BYTES = 20 << 20  # of one worker's buffers
_FETCHED = 8  # times as much is read at once from a remote run, where each request costs a round trip
_COPIED_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".py")
_NOT_COPIED = ("*.safetensors.index.json", "*.bin.index.json", "trainer_state.json", "run.json", "driftline.json")


_buffers = Buffers()


class Rule(Protocol):
    """A forecast that is not linear in the checkpoints: makes a whole tensor at once."""

    def applies(self, tensor: TensorSeries) -> bool: ...

    def forecast(self, tensor: TensorSeries) -> Array:
        """Float32, flat, [size]."""


@dataclass(frozen=True)
class Forecast:
    """One model to write.

    Attributes:
        folder: where; existing and empty.
        coefficients: of each tensor over the trajectory's checkpoints, float64 [T].
        rule: makes the tensors that it applies to instead.
        recipe: how this forecast came about, for `driftline.json`; `target` and `method` at least.
    """

    folder: Path
    coefficients: dict[str, Array]
    recipe: dict[str, Any]
    rule: Rule | None = None


@dataclass(frozen=True)
class Settings:
    """How forecasts are stored.

    Attributes:
        keep: shell patterns of the tensors copied from the last checkpoint; the norm layers, as in the paper's code.
        dtype: `same` as the last checkpoint, `float32`, `bfloat16` or `float16`.
        rounding: `nearest`, or `stochastic` (to bfloat16, up or down by chance).
        seed: of stochastic rounding.
        shard_bytes: the largest file, in bytes.
    """

    keep: tuple[str, ...] = NORM_LAYERS
    dtype: str = "same"
    rounding: str = "nearest"
    seed: int = 0
    shard_bytes: int = 5_000_000_000


@dataclass
class _Written:
    """What one forecast came to."""

    kept: list[str] = field(default_factory=list)
    copied: list[str] = field(default_factory=list)
    lost: float = 0.0
    moved: float = 0.0

    @property
    def rounding_loss(self) -> float:
        """||rounding error|| / ||forecast - first checkpoint used||."""
        return math.sqrt(self.lost / self.moved) if self.moved > 0 else 0.0


@dataclass(frozen=True)
class _Place:
    """Where a tensor of the output goes."""

    info: TensorInfo  # as in the last checkpoint
    series: TensorSeries | None  # None: its bytes are copied
    dtype: str
    shard: str
    offset: int


def write(
    trajectory: Trajectory,
    forecasts: Sequence[Forecast],
    settings: Settings,
    *,
    engine: Engine | None = None,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> list[dict[str, Any]]:
    """Write every forecast into its folder, reading each weight once for all of them.

    Args:
        engine: where the work runs; default threads of this process.

    Returns:
        What each folder's `driftline.json` holds.

    Raises:
        InputError: tensors that differ between checkpoints, a dtype that cannot be written, a pattern that
            keeps nothing, or weights that are not finite.
        OSError: the disk is full; known before any work, as the space is reserved first.
    """
    engine = engine or LocalEngine()
    _refuse_differences(trajectory, settings)
    layout = _layout(trajectory, settings)
    shards = sorted({place.shard for place in layout})
    results = [_Written() for _ in forecasts]
    handles = [{shard: os.open(f.folder / shard, os.O_RDWR | os.O_CREAT, 0o666) for shard in shards} for f in forecasts]
    try:
        for files in handles:
            for shard, handle in files.items():
                _begin(handle, [place for place in layout if place.shard == shard])
        store = partial(_store, forecasts=forecasts, settings=settings, steps=trajectory.steps)
        settle = partial(_settle, folders=[forecast.folder for forecast in forecasts])
        chunks = _chunks(layout, forecasts, settings)
        # hashes keep up with the pass, so that a file is fetched once; the disk takes what is there meanwhile
        with ThreadPoolExecutor(1) as beside, ThreadPoolExecutor(1) as flusher:
            hashing = beside.submit(lambda: list(engine.map(_source, _files_read(trajectory, forecasts))))
            unflushed = 0
            for chunk, sums in engine.map(store, chunks, size=lambda chunk: chunk.nbytes, settle=settle):
                for result, (lost, moved) in zip(results, sums, strict=True):
                    result.lost += lost
                    result.moved += moved
                progress(chunk.nbytes)
                unflushed += chunk.nbytes * len(forecasts)
                if unflushed > _FLUSHED_BYTES:
                    unflushed = 0
                    for files in handles:
                        flusher.submit(os.fdatasync, files[chunk.place.shard])
            for files in handles:
                for handle in files.values():
                    os.fsync(handle)
            hashed = hashing.result()
    finally:
        for files in handles:
            for handle in files.values():
                os.close(handle)
    records = []
    for forecast, result in zip(forecasts, results, strict=True):
        result.kept = [p.info.name for p in layout if p.series and _kept(p.info.name, settings.keep)]
        result.copied = [p.info.name for p in layout if p.series is None]
        _write_index(forecast.folder, layout, shards)
        _copy_rest(trajectory.checkpoints[-1].model, forecast.folder, settings)
        record = _recipe(trajectory, layout, forecast, result, settings, hashed)
        (forecast.folder / "driftline.json").write_text(json_text(record))
        (forecast.folder / "README.md").write_text(card(record, trajectory), encoding="utf-8")
        records.append(record)
    return records


def parse_size(text: str) -> int:
    """Bytes of `5GB`, `200MB`, `1GiB` or a plain number.

    Raises:
        InputError: not of that form, or 0.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(i?)B?|B)?", text.strip(), re.IGNORECASE)
    size = 0
    if match:
        power = " KMGT".index(match[2].upper()) if match[2] else 0
        size = int(float(match[1]) * (1024 if match[3] else 1000) ** power)
    if size < 1:
        raise InputError(f"--shard-size {text!r} is no size: give bytes, or a number with a unit such as 5GB or 200MB")
    return size


def bytes_read(trajectory: Trajectory) -> int:
    """Bytes of the last checkpoint: what `progress` counts up to."""
    return sum(info.nbytes for info in trajectory.checkpoints[-1].tensors.values())


def _kept(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(name.lower(), pattern.lower()) for pattern in patterns)


def _refuse_differences(trajectory: Trajectory, settings: Settings) -> None:
    """A tensor missing, of another shape, or of another dtype at some step, named with step and file."""
    last, last_step = trajectory.checkpoints[-1], trajectory.steps[-1]
    if any(map(needs_base, last.tensors.values())):
        raise InputError(
            f"the checkpoints of {trajectory.name} are LoRA adapters: say with --base which model they were trained on, "
            "and the forecast is written as a whole model"
        )
    if last.layout != huggingface.NAME and not (last.model / "config.json").is_file():
        raise InputError(
            f"{last.path} has no config.json, without which no model can be loaded: name with --base the model that the "
            "run began with, whose configuration and tokenizer are then used"
        )
    for step, checkpoint in zip(trajectory.steps, trajectory.checkpoints, strict=True):
        for name in {**last.tensors, **checkpoint.tensors}:
            if name in last.tied or name in checkpoint.tied:
                continue
            there, here = last.tensors.get(name), checkpoint.tensors.get(name)
            if here is None or there is None:
                absent, present = (step, there) if here is None else (last_step, here)
                assert present is not None
                raise InputError(
                    f"tensor {name!r} is in {present.file} but absent at step {absent}: a forecast needs it in every "
                    "checkpoint, so leave that step out with --from or --steps"
                )
            if here.shape != there.shape:
                raise InputError(
                    f"{here.file}: tensor {name!r} has shape {list(here.shape)} at step {step} but {list(there.shape)} "
                    f"at step {last_step}: leave one of them out with --from or --steps"
                )
            mixed = here.dtype != there.dtype
            if mixed and not {here.dtype, there.dtype} <= set(dtypes.FLOATS):
                raise InputError(
                    f"{here.file}: tensor {name!r} is {here.dtype} at step {step} but {there.dtype} at step {last_step}: "
                    "choose checkpoints of one model with --steps"
                )
            if mixed and settings.dtype == "same":
                raise InputError(
                    f"{here.file}: tensor {name!r} is {here.dtype} at step {step} but {there.dtype} at step {last_step}: "
                    "say with --dtype float32, bfloat16 or float16 what to write"
                )


def _layout(trajectory: Trajectory, settings: Settings) -> list[_Place]:
    """Every tensor to write, in the file order of the last checkpoint, with its place in the shards."""
    last = trajectory.checkpoints[-1]
    series = {tensor.name: tensor for tensor in trajectory}
    for pattern in settings.keep:
        if pattern not in NORM_LAYERS and not any(_kept(name, [pattern]) for name in last.tensors):
            raise InputError(
                f"--keep {pattern!r} matches no tensor of {last.path}: write it as in a shell, such as '*{pattern}*'"
            )
    chosen: list[tuple[TensorInfo, TensorSeries | None, str]] = []
    for name, info in last.tensors.items():
        if name in last.tied:
            continue  # stays tied: from_pretrained rebuilds it from the forecast embedding
        if name not in series:
            chosen.append((info, None, info.dtype))
            continue
        dtype = info.dtype if settings.dtype == "same" else DTYPES[settings.dtype]
        if dtype not in _CONFIG_NAMES and not (dtype == info.dtype and _kept(name, settings.keep)):
            raise InputError(f"{info.file}: tensor {name!r} is {dtype}, which cannot be written: choose a --dtype")
        if settings.rounding == "stochastic" and dtype == "F16":
            raise InputError("--rounding stochastic writes bfloat16 only: choose --dtype bfloat16, or nearest")
        chosen.append((info, series[name], dtype))
    sizes = [info.size * dtypes.ITEM_BYTES[dtype] for info, _, dtype in chosen]
    numbers, offsets, used, number = [], [], 0, 0
    for size in sizes:
        if used and used + size > settings.shard_bytes:
            used, number = 0, number + 1
        numbers.append(number)
        offsets.append(used)
        used += size
    total = number + 1
    names = (
        ["model.safetensors"] if total == 1 else [f"model-{i + 1:05}-of-{total:05}.safetensors" for i in range(total)]
    )
    heads = [
        len(_header([(i, d, o) for (i, _, d), n, o in zip(chosen, numbers, offsets, strict=True) if n == number]))
        for number in range(total)
    ]
    return [
        _Place(info, tensor, dtype, names[n], heads[n] + offset)
        for (info, tensor, dtype), n, offset in zip(chosen, numbers, offsets, strict=True)
    ]


def _header(tensors: list[tuple[TensorInfo, str, int]]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for info, dtype, offset in tensors:
        end = offset + info.size * dtypes.ITEM_BYTES[dtype]
        entries[info.name] = {"dtype": dtype, "shape": list(info.shape), "data_offsets": [offset, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _begin(handle: int, places: list[_Place]) -> None:
    """Reserve the whole shard, so that a full disk is known before any work, and write its header."""
    first = min(place.offset for place in places)
    header = _header([(place.info, place.dtype, place.offset - first) for place in places])
    end = max(place.offset + place.info.size * dtypes.ITEM_BYTES[place.dtype] for place in places)
    os.posix_fallocate(handle, 0, end)
    os.pwrite(handle, header, 0)


@dataclass(frozen=True)
class _Chunk:
    place: _Place
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """Of the last checkpoint."""
        return (self.stop - self.start) * dtypes.ITEM_BYTES[self.place.info.dtype]


def _used(coefficients: Array) -> Array:
    """Rows with a coefficient that is not zero, in order of step."""
    return np.flatnonzero(coefficients)


def _chunks(layout: list[_Place], forecasts: Sequence[Forecast], settings: Settings) -> Iterator[_Chunk]:
    for place in layout:
        if place.series is not None and _rules(place, forecasts, settings):
            yield _Chunk(place, 0, place.info.size)
            continue
        rows = 1
        if place.series is not None and not _kept(place.info.name, settings.keep):
            rows = len(set().union(*(_used(f.coefficients[place.info.name]).tolist() for f in forecasts)))
        per_weight = 4 * 2 * rows + 24  # read, picked for one forecast, forecast, rounded, decoded, scratch
        length = min(_LONGEST_CHUNK, max(1024, _CHUNK_BYTES // per_weight))
        if place.info.remote or (place.series is not None and place.series.remote):
            length *= _FETCHED
        for start in range(0, place.info.size, length):
            yield _Chunk(place, start, min(start + length, place.info.size))


def _rules(place: _Place, forecasts: Sequence[Forecast], settings: Settings) -> bool:
    """Whether any forecast makes this tensor whole."""
    if _kept(place.info.name, settings.keep):
        return False
    return any(f.rule is not None and place.series is not None and f.rule.applies(place.series) for f in forecasts)


def _store(
    chunk: _Chunk,
    *,
    forecasts: Sequence[Forecast],
    settings: Settings,
    steps: tuple[int, ...],
) -> tuple[_Chunk, list[tuple[float, float]]]:
    """Make and write one chunk of every forecast."""
    place, n = chunk.place, chunk.stop - chunk.start
    name, item = place.info.name, dtypes.ITEM_BYTES[place.dtype]
    kept = _kept(name, settings.keep)
    if place.series is None or (kept and place.dtype not in _CONFIG_NAMES):
        raw = np.empty(n * item, np.uint8)
        place.info.read_into(chunk.start, raw)
        for forecast in forecasts:
            _put(forecast.folder / place.shard, raw, place.offset + chunk.start * item)
        return chunk, [(0.0, 0.0)] * len(forecasts)
    last = np.eye(len(place.series.stored))[-1]
    vectors = [last if kept else f.coefficients[name] for f in forecasts]
    rows = sorted(set().union(*(_used(vector).tolist() for vector in vectors)))
    stored = tuple(place.series.stored[row] for row in rows)
    whole = not kept and any(f.rule is not None and f.rule.applies(place.series) for f in forecasts)
    fused = place.dtype == "BF16" and settings.rounding == "nearest" and not whole
    if fused and all(info.dtype == "BF16" for info in stored):
        return chunk, _store_bfloat16(chunk, stored, rows, vectors, forecasts, steps)
    values = _buffers.get("values", 4 * len(rows) * n).view(np.float32).reshape(len(rows), n)
    TensorSeries(name, place.series.shape, stored).read(chunk.start, chunk.stop, values, _buffers.get("scratch", 8 * n))
    sums = []
    for forecast, vector in zip(forecasts, vectors, strict=True):
        mine = [rows.index(row) for row in _used(vector)]
        used = values if len(mine) == len(rows) else values[mine]
        if forecast.rule is not None and not kept and forecast.rule.applies(place.series):
            out = forecast.rule.forecast(place.series)
        else:
            out = _buffers.get("out", 4 * n).view(np.float32)
            combine(used, vector[[rows[m] for m in mine]].astype(np.float32), out)
        raw = encode(
            out,
            place.dtype,
            stochastic=settings.rounding == "stochastic" and not kept,
            seed=settings.seed,
            name=name,
            first=chunk.start,
        )
        lost, moved = losses(out, decoded(raw, place.dtype), used[0])
        if not math.isfinite(lost + moved):
            _refuse_not_finite(chunk, used, [rows[m] for m in mine], steps, place.dtype)
        _put(forecast.folder / place.shard, raw.view(np.uint8), place.offset + chunk.start * item)
        sums.append((lost, moved))
    return chunk, sums


def _store_bfloat16(
    chunk: _Chunk,
    stored: tuple[TensorInfo, ...],
    rows: list[int],
    vectors: list[Array],
    forecasts: Sequence[Forecast],
    steps: tuple[int, ...],
) -> list[tuple[float, float]]:
    """The usual case, bfloat16 in and out, in one fused kernel: no float32 copy of anything is made."""
    place, n = chunk.place, chunk.stop - chunk.start
    raw = _buffers.get("raw", 2 * len(rows) * n).view(np.uint16).reshape(len(rows), n)
    read_each(stored, chunk.start, list(raw.view(np.uint8)))
    sums = []
    for forecast, vector in zip(forecasts, vectors, strict=True):
        mine = [rows.index(row) for row in _used(vector)]
        used = raw if len(mine) == len(rows) else raw[mine]
        out = _buffers.get("out", 2 * n).view(np.uint16)
        lost, moved = combine_bfloat16(used, vector[[rows[m] for m in mine]].astype(np.float32), out)
        if not math.isfinite(lost + moved):
            values = np.stack([decoded(bits, "BF16") for bits in used])
            _refuse_not_finite(chunk, values, [rows[m] for m in mine], steps, place.dtype)
        _put(forecast.folder / place.shard, out.view(np.uint8), place.offset + chunk.start * 2)
        sums.append((lost, moved))
    return sums


def _refuse_not_finite(chunk: _Chunk, values: Array, rows: list[int], steps: tuple[int, ...], dtype: str) -> None:
    series = chunk.place.series
    assert series is not None
    for row, index in zip(values, rows, strict=True):
        bad = ~np.isfinite(row)
        if bad.any():
            raise InputError(
                f"{series.stored[index].file}: tensor {series.name!r} at step {steps[index]} holds a weight that is "
                f"not finite (flat position {chunk.start + int(bad.argmax())}): choose other steps with --from"
            )
    raise InputError(
        f"the forecast of tensor {series.name!r} is too large for {dtype}: choose a nearer target or --dtype"
    )


def _put(path: Path, raw: Array, position: int) -> None:
    """Write into the file, which is opened for each writing, by whichever process and machine."""
    view = memoryview(raw)  # type: ignore[arg-type]
    try:
        handle = os.open(path, os.O_WRONLY)
    except FileNotFoundError as error:
        raise InputError(f"{path} is not there: it was removed while it was being written; repeat the call") from error
    try:
        while view:
            done = os.pwrite(handle, view, position)
            view, position = view[done:], position + done
    finally:
        os.close(handle)


def _settle(chunks: Sequence[_Chunk], folders: Sequence[Path]) -> None:
    """Have the disk take what this machine wrote: the process that renames the result may run on another one."""
    for path in {folder / chunk.place.shard for chunk in chunks for folder in folders}:
        handle = os.open(path, os.O_WRONLY)
        try:
            os.fdatasync(handle)
        finally:
            os.close(handle)


def _write_index(folder: Path, layout: list[_Place], shards: list[str]) -> None:
    if len(shards) == 1:
        return
    total = sum(place.info.size * dtypes.ITEM_BYTES[place.dtype] for place in layout)
    index = {"metadata": {"total_size": total}, "weight_map": {place.info.name: place.shard for place in layout}}
    (folder / "model.safetensors.index.json").write_text(json_text(index))


def _copy_rest(source: Path, folder: Path, settings: Settings) -> None:
    """Configuration, generation configuration, tokenizer and chat template, from the last checkpoint."""
    with remote.local_copy(source, weights=False) as here:
        for file in sorted(Path(here).iterdir()):
            wanted = file.is_file() and file.name.endswith(_COPIED_SUFFIXES)
            if wanted and not any(fnmatch.fnmatch(file.name, pattern) for pattern in _NOT_COPIED):
                shutil.copyfile(file, folder / file.name)
    config = folder / "config.json"
    if settings.dtype != "same" and config.is_file():
        values = json.loads(config.read_bytes())
        for key in ("dtype", "torch_dtype"):
            if key in values or key == "dtype":
                values[key] = settings.dtype
        config.write_text(json_text(values))


def _files_read(trajectory: Trajectory, forecasts: Sequence[Forecast]) -> list[tuple[int, Path]]:
    """(step, file) of every file that the pass reads."""
    rows = {len(trajectory.steps) - 1}.union(*(_used(a).tolist() for f in forecasts for a in f.coefficients.values()))
    return [
        (trajectory.steps[row], file)
        for row in sorted(rows)
        for file in sorted({file for info in trajectory.checkpoints[row].tensors.values() for file in info.files})
    ]


def _source(read: tuple[int, Path]) -> dict[str, Any]:
    """One file that is read, with its size and BLAKE3 hash (what `b3sum` prints); a remote one is not read twice for it."""
    (step, file), digest, block = read, blake3(), memoryview(bytearray(_HASH_BLOCK))
    try:
        if remote.is_remote(file):
            return {"step": step, "file": str(file), **remote.origin(file)}
        with open(file, "rb", buffering=0) as handle:
            while count := handle.readinto(block):
                digest.update(block[:count])
            size = os.fstat(handle.fileno()).st_size
    except OSError as error:
        raise UnreadableCheckpoint(f"{file} cannot be read ({error.strerror})") from error
    return {"step": step, "file": str(file), "bytes": size, "blake3": digest.hexdigest()}


def _recipe(
    trajectory: Trajectory,
    layout: list[_Place],
    forecast: Forecast,
    result: _Written,
    settings: Settings,
    sources: list[dict[str, Any]],
) -> dict[str, Any]:
    distinct = {vector.tobytes(): vector for vector in forecast.coefficients.values()}
    named = {str(step): None for step in trajectory.steps}
    if len(distinct) == 1:
        coefficients: dict[str, Any] = dict(zip(named, next(iter(distinct.values())).tolist(), strict=True))
    else:
        coefficients = {name: dict(zip(named, a.tolist(), strict=True)) for name, a in forecast.coefficients.items()}
    return {
        "driftline": __version__,
        **forecast.recipe,
        "steps": list(trajectory.steps),
        "coefficients_per": "run" if len(distinct) == 1 else "tensor",
        "coefficients": coefficients,
        "sources": sources,
        "keep": list(settings.keep),
        "kept": result.kept,
        "copied": result.copied,
        "dtype": settings.dtype,
        "written_dtype": "+".join(sorted({place.dtype for place in layout if place.series is not None})),
        "rounding": settings.rounding,
        "seed": settings.seed,
        "shard_bytes": settings.shard_bytes,
        "rounding_loss": result.rounding_loss,
    }
