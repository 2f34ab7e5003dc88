"""verl and SkyRL with FSDP or FSDP2: `model_world_size_W_rank_R.pt`, each rank's part of the fp32 masters, in
`global_step_N/actor/` or `global_step_N/policy/`.

A rank's file is a state dict of torch.save: DTensors with their placement, and plain tensors. Beside DTensors a plain
one is a buffer, of which every rank has a copy. Without any DTensor the files are either copies of each other (one
shard), or cut along the first axis, as verl's own merger joins them. `huggingface/` beside has configuration and
tokenizer, and rounded weights only if the trainer was told to save them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from driftline.checkpoints.layouts import Checkpoint, huggingface
from driftline.checkpoints.sharding import box_of, is_dtensor
from driftline.checkpoints.tensors import Piece, Stored, TensorInfo, sharded
from driftline.checkpoints.torch_file import part_of, read_torch_file
from driftline.checkpoints.unpickling import called
from driftline.errors import UnreadableCheckpoint
from driftline.files.json import read_json

NAME = "verl-fsdp"
_SHARD = re.compile(r"^model_world_size_(\d{1,9})_rank_(\d{1,9})\.pt$")
_SAMPLE = 1 << 16  # elements at either end of a tensor, by which copies are told from cuts


def holds(place: Path) -> bool:
    return bool(_shards(place))


def open(place: Path) -> Checkpoint:
    """The parameters, each read from all ranks' files.

    Raises:
        UnreadableCheckpoint: a rank's file is missing or damaged, two saves are mixed, or parts do not make a tensor.
    """
    files = _complete(place)
    pieces: dict[str, list[Piece]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    found: dict[str, str] = {}
    plain: dict[str, list[Stored]] = {}
    for rank, file in enumerate(files):
        state = read_torch_file(file)
        if not isinstance(state, dict):
            raise UnreadableCheckpoint(f"{file} is not a state dict")
        for key, value in state.items():
            name = str(key)
            where = f"{file}, tensor {name!r},"
            if is_dtensor(value):
                shapes[name], begin, part = box_of(value, rank, where)
                pieces.setdefault(name, []).append(Piece(file, part.offset, begin, part.shape))
            elif (whole := part_of(value, where)) is not None:
                part = whole
                plain.setdefault(name, []).append(Stored(name, part.shape, part.dtype, file, part.offset))
            elif called(value) == "ShardedTensor":
                raise UnreadableCheckpoint(
                    f"{where} is a ShardedTensor, which is not read: merge the ranks with verl's model_merger"
                )
            else:
                continue
            if found.setdefault(name, part.dtype) != part.dtype:
                raise UnreadableCheckpoint(f"{where} is {part.dtype} where another rank has {found[name]}")
    if not found:
        raise UnreadableCheckpoint(f"{files[0]} holds no tensors: damaged, or not saved by verl")
    tensors = {name: sharded(name, shapes[name], found[name], parts) for name, parts in pieces.items()}
    tensors |= _whole(plain, len(files)) if pieces or _copies(plain) else _joined(plain)
    if not pieces:
        _refuse_other_shapes(tensors, place)
    model = place / "huggingface"
    notes = (
        (f"{model} holds weights too: the ranks' files are read, which have the trainer's own precision",)
        if huggingface.holds(model)
        else ()
    )
    return Checkpoint(place, NAME, {name: tensors[name] for name in found}, notes=notes)


def _whole(plain: dict[str, list[Stored]], ranks: int) -> dict[str, TensorInfo]:
    """Tensors of which every rank has a copy."""
    for name, parts in plain.items():
        if len(parts) != ranks or not _equal(parts):
            raise UnreadableCheckpoint(
                f"{parts[0].file}: {name!r} is not cut, and yet not the same on every rank: merge the ranks with verl's "
                "model_merger"
            )
    return {name: parts[0] for name, parts in plain.items()}


def _joined(plain: dict[str, list[Stored]]) -> dict[str, TensorInfo]:
    """Tensors that are cut along the first axis, by rank; numbers are copies."""
    found: dict[str, TensorInfo] = {}
    for name, parts in plain.items():
        if not parts[0].shape:
            found[name] = parts[0]
            continue
        rows, pieces = 0, []
        for part in parts:
            pieces.append(Piece(part.file, part.offset, (rows, *[0] * (len(part.shape) - 1)), part.shape))
            rows += part.shape[0]
        found[name] = sharded(name, (rows, *parts[0].shape[1:]), parts[0].dtype, pieces)
    return found


def _copies(plain: dict[str, list[Stored]]) -> bool:
    return all(_equal(parts) for parts in plain.values())


def _equal(parts: Sequence[Stored]) -> bool:
    """Whether the same stands in every rank's file, as far as both ends of it tell."""
    if len({part.shape for part in parts}) > 1:
        return False
    first, size = parts[0], parts[0].size
    spans = {(0, min(_SAMPLE, size)), (max(size - _SAMPLE, 0), size)}
    return all(np.array_equal(_raw(first, *span), _raw(other, *span)) for other in parts[1:] for span in spans if size)


def _raw(info: Stored, start: int, stop: int) -> np.ndarray:
    raw = np.empty((stop - start) * info.nbytes // info.size, np.uint8)
    info.read_into(start, raw)
    return raw


def _refuse_other_shapes(tensors: dict[str, TensorInfo], place: Path) -> None:
    """Where no placement says how large a tensor is, the configuration does."""
    vocabulary, hidden = (_value(place / "huggingface" / "config.json", key) for key in ("vocab_size", "hidden_size"))
    for name, info in tensors.items():
        if not name.endswith("embed_tokens.weight") or len(info.shape) != 2 or not isinstance(vocabulary, int):
            continue
        if info.shape[1] != hidden or not vocabulary <= info.shape[0] < 2 * vocabulary:
            raise UnreadableCheckpoint(
                f"{place}: the ranks' files make {name!r} {list(info.shape)} where {place / 'huggingface' / 'config.json'} "
                f"says {[vocabulary, hidden]}: merge the ranks with verl's model_merger"
            )


def _shards(place: Path) -> dict[tuple[int, int], Path]:
    """(world size, rank) -> file."""
    if not place.is_dir():
        return {}
    matches = [(_SHARD.match(path.name), path) for path in place.iterdir()]
    return {(int(match[1]), int(match[2])): path for match, path in matches if match and path.is_file()}


def _complete(place: Path) -> list[Path]:
    """The files of one save, by rank."""
    shards = _shards(place)
    worlds = sorted({world for world, _ in shards})
    said = _value(place / "fsdp_config.json", "world_size")  # older runs have no such file
    if isinstance(said, int) and said in worlds:
        worlds = [said]
    if len(worlds) > 1:
        raise UnreadableCheckpoint(
            f"{place} holds files of {' and '.join(map(str, worlds))} ranks, so of two saves: move those of one away"
        )
    missing = next((rank for rank in range(worlds[0]) if (worlds[0], rank) not in shards), None)
    if missing is not None:
        raise UnreadableCheckpoint(
            f"{place} lacks the file of rank {missing} of {worlds[0]}: still being written, or lost"
        )
    return [shards[worlds[0], rank] for rank in range(worlds[0])]


def _value(path: Path, key: str) -> Any:
    try:
        return read_json(path)[key]
    except (OSError, ValueError, KeyError, TypeError):
        return None
