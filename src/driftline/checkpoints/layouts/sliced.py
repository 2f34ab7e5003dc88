"""Safetensors files that hold slices, as NeMo-RL (`step_N/policy/weights/`) and torch's Hugging Face writer leave them.

Each file's metadata says under `DCP_SHARDING_INFO` where in the whole tensor its slices begin; the whole is as large
as its slices reach. Read as if they were whole, such files give wrong tensors.
"""

from __future__ import annotations

import json
from pathlib import Path

from driftline.checkpoints.layouts import Checkpoint, huggingface
from driftline.checkpoints.parameter_names import of_the_model
from driftline.checkpoints.safetensors_file import read_header_and_metadata
from driftline.checkpoints.tensors import Piece, TensorInfo, sharded
from driftline.errors import UnreadableCheckpoint

NAME = "sliced-safetensors"
_KEY, _OFFSETS = "DCP_SHARDING_INFO", "saved_offsets"
_WITHIN = ("policy/weights/model", "policy/weights", "sharded", "")


def holds(folder: Path) -> bool:
    return _place(folder) is not None


def _place(folder: Path) -> Path | None:
    for within in _WITHIN:
        first = next(iter(sorted((folder / within).glob("*.safetensors"))), None)
        try:
            if first is not None and first.is_file() and _KEY in read_header_and_metadata(first)[1]:
                return folder / within
        except UnreadableCheckpoint:
            continue
    return None


def open(folder: Path) -> Checkpoint:
    """The whole tensors, each made up of the slices of all files.

    Raises:
        UnreadableCheckpoint: a slice is missing, or a file is damaged.
    """
    place = _place(folder)
    if place is None:
        raise UnreadableCheckpoint(f"{folder} holds no slices: still being written, or lost")
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
    names = of_the_model(pieces)
    tensors: dict[str, TensorInfo] = {}
    for name, short in names.items():
        ends = [[b + n for b, n in zip(piece.begin, piece.shape, strict=True)] for piece in pieces[name]]
        shape = tuple(max(axis) for axis in zip(*ends, strict=True))
        tensors[short] = sharded(short, shape, found[name], pieces[name])
    model = place if (place / "config.json").is_file() else folder
    return Checkpoint(folder, NAME, tensors, huggingface.tied(model, tensors), model)
