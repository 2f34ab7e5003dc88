"""Safetensors files written by range: every tensor's place is fixed and its bytes reserved before the first is known.

So many workers, on whichever machine, can each write their own part of a file, in any order; a disk that is too full
is found out at once; and the bytes do not depend on who wrote when.
Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from driftline.checkpoints.dtypes import ITEM_BYTES
from driftline.errors import InputError
from driftline.files.json import json_text


@dataclass(frozen=True)
class Entry:
    """A tensor to be written: its name, its shape, and the safetensors name of its dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Placed:
    """Where an entry's bytes go: the name of its file, and the position of the first of them there."""

    entry: Entry
    shard: str
    offset: int

    @property
    def end(self) -> int:
        return self.offset + self.entry.nbytes


def place(entries: Sequence[Entry], shard_bytes: int) -> list[Placed]:
    """The place of every entry, in their order; a new shard is begun where the next would pass `shard_bytes`.

    One tensor that is larger than that has a shard of its own.
    """
    shards: list[list[Entry]] = [[]]
    used = 0
    for entry in entries:
        if used and used + entry.nbytes > shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(entry)
        used += entry.nbytes
    placed = []
    for number, shard in enumerate(shards, start=1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        position = len(header(shard))
        for entry in shard:
            placed.append(Placed(entry, name, position))
            position += entry.nbytes
    return placed


def header(entries: Sequence[Entry]) -> bytes:
    """The bytes before the first tensor's, of a file that holds these one after another."""
    fields: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for entry in entries:
        end = position + entry.nbytes
        fields[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


@contextmanager
def reserved(folders: Sequence[Path], placed: Sequence[Placed]) -> Iterator[list[dict[str, int]]]:
    """The shards in each of the folders, made with their headers and all the room that they need.

    Yields:
        For each folder the shards' descriptors, by name: for flushing, open until the block ends.

    Raises:
        OSError: the disk is full.
    """
    shards: dict[str, list[Placed]] = {}
    for one in placed:
        shards.setdefault(one.shard, []).append(one)
    handles: list[dict[str, int]] = [{} for _ in folders]
    try:
        for folder, files in zip(folders, handles, strict=True):
            for shard, held in shards.items():
                files[shard] = handle = os.open(folder / shard, os.O_RDWR | os.O_CREAT, 0o666)
                os.posix_fallocate(handle, 0, max(one.end for one in held))
                os.pwrite(handle, header([one.entry for one in held]), 0)
        yield handles
    finally:
        for files in handles:
            for handle in files.values():
                os.close(handle)


def write_range(file: Path, position: int, raw: np.ndarray) -> None:
    """Write uint8 `raw` into a reserved file, which is opened for each writing, by whichever process and machine.

    Raises:
        InputError: the file is no longer there.
    """
    view = memoryview(raw)  # type: ignore[arg-type]
    try:
        handle = os.open(file, os.O_WRONLY)
    except FileNotFoundError as error:
        raise InputError(f"{file} is not there: it was removed while it was being written; repeat the call") from error
    try:
        while view:
            done = os.pwrite(handle, view, position)
            view, position = view[done:], position + done
    finally:
        os.close(handle)


def settle(file: Path) -> None:
    """Have the disk take what this machine wrote into the file."""
    handle = os.open(file, os.O_WRONLY)
    try:
        os.fdatasync(handle)
    finally:
        os.close(handle)


def write_index(folder: Path, placed: Sequence[Placed]) -> None:
    """`model.safetensors.index.json`, which says where each tensor is, if there is more than one shard."""
    shards = {one.entry.name: one.shard for one in placed}
    if len(set(shards.values())) == 1:
        return
    index = {"metadata": {"total_size": sum(one.entry.nbytes for one in placed)}, "weight_map": shards}
    (folder / "model.safetensors.index.json").write_text(json_text(index))
