"""verl with FSDP or FSDP2: `global_step_N/actor/model_world_size_W_rank_R.pt`, each rank's part of the fp32 masters.

A rank's file is a state dict of torch.save: DTensors with their placement, or plain tensors cut along the first axis
(verl's own merger joins them so, but in bfloat16). With LoRA it holds `lora_A` and `lora_B` beside the frozen
`base_layer` weights, or alone; alpha is in `lora_train_meta.json`. `huggingface/` beside has configuration and
tokenizer, and rounded weights only if the trainer was told to save them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from driftline.checkpoints.layouts import Checkpoint, huggingface
from driftline.checkpoints.low_rank import assemble, lora_scale
from driftline.checkpoints.parameter_names import unwrapped
from driftline.checkpoints.sharding import box_of, is_dtensor
from driftline.checkpoints.tensors import Piece, TensorInfo, sharded
from driftline.checkpoints.torch_file import part_of, read_torch_file
from driftline.errors import UnreadableCheckpoint
from driftline.files.json import read_json

NAME = "verl-fsdp"
_SHARD = re.compile(r"^model_world_size_(\d+)_rank_(\d+)\.pt$")


def holds(folder: Path) -> bool:
    return bool(_shards(_actor(folder)))


def open(folder: Path) -> Checkpoint:
    """The parameters, each read from all ranks' files.

    Raises:
        UnreadableCheckpoint: a rank's file is missing or damaged, two saves are mixed, or parts do not make a tensor.
    """
    actor = _actor(folder)
    files = _complete(actor)
    pieces: dict[str, list[Piece]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    found: dict[str, str] = {}
    for rank, file in enumerate(files):
        state = read_torch_file(file)
        if not isinstance(state, dict):
            raise UnreadableCheckpoint(f"{file} is not a state dict")
        for key, value in state.items():
            name = unwrapped(str(key))
            where = f"{file}, tensor {name!r},"
            if is_dtensor(value):
                shape, begin, part = box_of(value, rank, where)
            elif (plain := part_of(value, where)) is not None:
                part = plain
                rows = shapes[name][0] if part.shape and name in shapes else 0
                begin = (rows, *[0] * (len(part.shape) - 1)) if part.shape else ()
                shape = (rows + part.shape[0], *part.shape[1:]) if part.shape else ()
            else:
                continue
            shapes[name] = shape
            if found.setdefault(name, part.dtype) != part.dtype:
                raise UnreadableCheckpoint(f"{where} is {part.dtype} where another rank has {found[name]}")
            pieces.setdefault(name, []).append(Piece(file, part.offset, begin, part.shape))
    if not pieces:
        raise UnreadableCheckpoint(f"{files[0]} holds no tensors: damaged, or not saved by verl")
    tensors: dict[str, TensorInfo] = {
        name: sharded(name, shapes[name], found[name], parts) for name, parts in pieces.items()
    }
    tensors = assemble(tensors, actor, lambda module, rank: lora_scale(_alpha(actor), rank, actor))
    model = actor / "huggingface"
    notes = (
        (f"{model} holds weights too: the ranks' files are read, which have the trainer's own precision",)
        if huggingface.holds(model)
        else ()
    )
    return Checkpoint(folder, NAME, tensors, huggingface.tied(model, tensors), model, notes)


def _actor(folder: Path) -> Path:
    return folder / "actor" if (folder / "actor").is_dir() else folder


def _shards(actor: Path) -> dict[tuple[int, int], Path]:
    """(world size, rank) -> file."""
    if not actor.is_dir():
        return {}
    matches = [(_SHARD.match(path.name), path) for path in actor.iterdir()]
    return {(int(match[1]), int(match[2])): path for match, path in matches if match and path.is_file()}


def _complete(actor: Path) -> list[Path]:
    """The files of one save, by rank."""
    shards = _shards(actor)
    worlds = sorted({world for world, _ in shards})
    said = _value(actor / "fsdp_config.json", "world_size")  # older runs have no such file
    if isinstance(said, int) and said in worlds:
        worlds = [said]
    if len(worlds) > 1:
        raise UnreadableCheckpoint(
            f"{actor} holds files of {' and '.join(map(str, worlds))} ranks, so of two saves: move those of one away"
        )
    missing = [rank for rank in range(worlds[0]) if (worlds[0], rank) not in shards]
    if missing:
        raise UnreadableCheckpoint(
            f"{actor} lacks the file of rank {missing[0]} of {worlds[0]}: still being written, or lost"
        )
    return [shards[worlds[0], rank] for rank in range(worlds[0])]


def _alpha(actor: Path) -> Any:
    found = _value(actor / "lora_train_meta.json", "lora_alpha")
    return found if found is not None else _value(actor / "lora_adapter" / "adapter_config.json", "lora_alpha")


def _value(path: Path, key: str) -> Any:
    try:
        return read_json(path)[key]
    except (OSError, ValueError, KeyError, TypeError):
        return None
