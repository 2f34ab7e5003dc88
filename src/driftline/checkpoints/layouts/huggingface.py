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
from driftline.files import remote
from driftline.files.json import read_json

NAME = "huggingface"
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
WITHIN = ("", "actor/huggingface", "actor/model/huggingface")  # verl's, where the trainer saved rounded weights too
_MANIFEST = "actor/ckpt_contents.json"  # verl's, of the newer layout
_STABLE, _STABLE_IN = "STABLE", ("weights", "broadcasts")  # prime-rl's


def holds(folder: Path) -> bool:
    return _place(folder) is not None


def _place(folder: Path) -> Path | None:
    places = (folder / within for within in WITHIN)
    return next((p for p in places if (p / _SINGLE).is_file() or (p / _INDEX).is_file()), None)


def open(folder: Path) -> Checkpoint:
    """The tensors of a complete folder, in file order.

    Raises:
        UnreadableCheckpoint: weights missing, a shard missing, truncated, or outside the folder.
    """
    place = _place(folder) or folder
    refuse_unmarked(folder, place)
    tensors: dict[str, TensorInfo] = (
        sharded(place / _INDEX, read_header) if (place / _INDEX).is_file() else dict(read_header(place / _SINGLE))
    )
    return Checkpoint(folder, NAME, tensors, tied(place, tensors), place if place != folder else None)


def refuse_unmarked(folder: Path, place: Path) -> None:
    """Raise `UnreadableCheckpoint` where the trainer's mark of a complete checkpoint is not there yet."""
    if place == folder / WITHIN[2] and not (folder / _MANIFEST).is_file():
        raise UnreadableCheckpoint(
            f"{folder} has no {_MANIFEST} yet, which verl writes last: still being written, or lost"
        )
    weights = folder.parent
    marks = weights.name in _STABLE_IN and not remote.is_remote(folder)  # each look at a remote one is a request
    if marks and not (folder / _STABLE).is_file() and any((other / _STABLE).is_file() for other in weights.iterdir()):
        raise UnreadableCheckpoint(f"{folder} has no {_STABLE} yet, which prime-rl writes last: still being written")


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
    tensors: dict[str, TensorInfo] = {}
    for shard in shards:
        if not isinstance(shard, str) or Path(shard).name != shard or shard in ("", ".", ".."):
            raise UnreadableCheckpoint(f"{index} names {shard!r}, which is outside its folder")
        if not (folder / shard).is_file():
            raise UnreadableCheckpoint(f"{folder} lacks the shard {shard}: still being written, or lost")
        header = read(folder / shard)
        wanted = [name for name, file in weight_map.items() if file == shard]
        missing = [name for name in wanted if name not in header]
        if missing:
            raise UnreadableCheckpoint(f"{folder / shard} lacks the tensor {missing[0]!r} that the index promises")
        tensors |= {name: info for name, info in header.items() if weight_map.get(name) == shard}
    return tensors


def tied(folder: Path, tensors: Mapping[str, TensorInfo]) -> dict[str, str]:
    """Output embeddings that the configuration ties to the input embeddings, where both were saved."""
    try:
        config = read_json(folder / "config.json")
        share = config.get("tie_word_embeddings", config.get("text_config", {}).get("tie_word_embeddings"))
    except (OSError, ValueError, AttributeError):
        return {}
    if share is not True:
        return {}
    inputs = [name for name in tensors if name.endswith(("embed_tokens.weight", "wte.weight", "embed_in.weight"))]
    outputs = [name for name in tensors if name.endswith(("lm_head.weight", "embed_out.weight"))]
    return {output: inputs[0] for output in outputs if inputs and tensors[output].shape == tensors[inputs[0]].shape}
