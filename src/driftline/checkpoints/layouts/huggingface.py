"""Hugging Face folders, as transformers, TRL, OpenRLHF (`global_stepN_hf/`) and prime-rl (`weights/step_N/`) write them.

One `model.safetensors`, or shards named by `model.safetensors.index.json`. verl's newer layout has them in
`actor/model/huggingface/`, and writes `actor/ckpt_contents.json` last; prime-rl writes `STABLE` last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from driftline.checkpoints.layouts import Checkpoint
from driftline.checkpoints.safetensors_file import read_header
from driftline.checkpoints.tensors import TensorInfo
from driftline.errors import UnreadableCheckpoint
from driftline.files.json import read_json

NAME = "huggingface"
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


def holds(place: Path) -> bool:
    return (place / _SINGLE).is_file() or (place / _INDEX).is_file()


def open(place: Path) -> Checkpoint:
    """The tensors of a complete folder, in file order; of a single file before shards, as `from_pretrained` takes it.

    Raises:
        UnreadableCheckpoint: weights missing, a shard missing, truncated, or outside the folder.
    """
    if not (place / _SINGLE).is_file():
        return Checkpoint(place, NAME, sharded(place / _INDEX, read_header))
    beside = (place / _INDEX).is_file()
    note = f"{place} holds {_SINGLE} and {_INDEX}: the single file is read, as from_pretrained does"
    return Checkpoint(place, NAME, dict(read_header(place / _SINGLE)), notes=(note,) if beside else ())


def sharded(index: Path, read: Callable[[Path], Mapping[str, TensorInfo]]) -> dict[str, TensorInfo]:
    """The tensors of all shards that an index names, each file's found by `read`.

    Raises:
        UnreadableCheckpoint: the index is damaged or points outside its folder; a shard is missing or lacks a tensor.
    """
    folder = index.parent
    try:
        weight_map = read_json(index)["weight_map"]
        shards = sorted(set(weight_map.values()))
    except OSError as error:
        raise UnreadableCheckpoint(f"{index} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnreadableCheckpoint(f"{index} is damaged or still being written") from error
    promised: dict[str, list[str]] = {}
    for name, shard in weight_map.items():
        promised.setdefault(shard, []).append(name)
    tensors: dict[str, TensorInfo] = {}
    for shard in shards:
        if not isinstance(shard, str) or Path(shard).name != shard or shard in ("", ".", ".."):
            raise UnreadableCheckpoint(f"{index} names {shard!r}, which is outside its folder")
        if not (folder / shard).is_file():
            raise UnreadableCheckpoint(f"{folder} lacks the shard {shard}: still being written, or lost")
        header = read(folder / shard)
        missing = [name for name in promised[shard] if name not in header]
        if missing:
            raise UnreadableCheckpoint(f"{folder / shard} lacks the tensor {missing[0]!r} that the index promises")
        tensors |= {name: info for name, info in header.items() if weight_map.get(name) == shard}
    return tensors
