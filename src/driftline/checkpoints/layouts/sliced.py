"""Safetensors files that hold slices, as NeMo-RL (`step_N/policy/weights/`) and torch's Hugging Face writer leave them.

Each file's metadata says under `DCP_SHARDING_INFO` where in the whole tensor its slices begin; the whole is as large
as its slices reach. Read as if they were whole, such files give wrong tensors.
"""

from __future__ import annotations

import json
from pathlib import Path

from driftline.checkpoints.layouts import Checkpoint
from driftline.checkpoints.safetensors_file import read_header_and_metadata
from driftline.checkpoints.tensors import Piece, TensorInfo, sharded
from driftline.errors import UnreadableCheckpoint

NAME = "sliced-safetensors"
_KEY, _OFFSETS = "DCP_SHARDING_INFO", "saved_offsets"


def holds(place: Path) -> bool:
    first = next(iter(sorted(place.glob("*.safetensors"))), None)
    try:
        return first is not None and first.is_file() and _KEY in read_header_and_metadata(first)[1]
    except UnreadableCheckpoint:
        return False


def open(place: Path) -> Checkpoint:
    """The whole tensors, each made up of the slices of all files.

    Raises:
        UnreadableCheckpoint: a slice is missing, or a file is damaged.
    """
    pieces: dict[str, list[Piece]] = {}
    found: dict[str, str] = {}
    for file in sorted(place.glob("*.safetensors")):
        header, noted = read_header_and_metadata(file)
        try:
            begins = {name: tuple(where[_OFFSETS]) for name, where in json.loads(noted.get(_KEY, "{}")).items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UnreadableCheckpoint(f"{file} says in {_KEY} what is not understood: damaged") from error
        for name, info in header.items():
            begin = begins.get(name, (0,) * len(info.shape))
            if len(begin) != len(info.shape) or any(type(place) is not int or place < 0 for place in begin):
                raise UnreadableCheckpoint(f"{file}: the place of {name!r} is not one number for each axis: damaged")
            if found.setdefault(name, info.dtype) != info.dtype:
                raise UnreadableCheckpoint(f"{file}: {name!r} is {info.dtype}, in another file {found[name]}")
            pieces.setdefault(name, []).append(Piece(file, info.offset, begin, info.shape))
    tensors: dict[str, TensorInfo] = {}
    for name, parts in pieces.items():
        ends = [[b + n for b, n in zip(piece.begin, piece.shape, strict=True)] for piece in parts]
        shape = tuple(max(axis) for axis in zip(*ends, strict=True))
        tensors[name] = sharded(name, shape, found[name], parts)
    return Checkpoint(place, NAME, tensors)
