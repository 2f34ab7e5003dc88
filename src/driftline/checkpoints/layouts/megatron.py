"""Megatron-Core: its `torch_dist` folders have torch's `.metadata`, and are read as such (`dcp`) for measuring; formats
without it are recognised only. Layers are stacked there, and rows interleaved, which only the trainers' converters undo:
no model can be written of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from driftline.checkpoints.layouts import Checkpoint, dcp
from driftline.errors import UnreadableCheckpoint
from driftline.files.json import read_json

NAME = "megatron"
CONVERTERS = (
    "convert it to Hugging Face weights first, with Megatron Bridge (AutoBridge.export_ckpt), verl's `python -m "
    "verl.model_merger merge --backend megatron`, NeMo-RL's convert_megatron_to_hf.py or slime's "
    "convert_torch_dist_to_hf.py, whichever trainer wrote it"
)


def holds(place: Path) -> bool:
    if (place / "common.pt").is_file():
        return True
    try:
        return read_json(place / "metadata.json").get("sharded_backend") == "torch_dist"
    except (OSError, ValueError, AttributeError):
        return False


def open(place: Path) -> Checkpoint:
    """The tensors as they are sharded there.

    Raises:
        UnreadableCheckpoint: a format without torch's index, with what converts it; or as of `dcp.open`.
    """
    if not dcp.holds(place):
        raise UnreadableCheckpoint(f"{place} is a Megatron checkpoint: {CONVERTERS}")
    note = (
        f"{place} is Megatron's: it is measured as it lies there, layers stacked; to make a model of it, {CONVERTERS}"
    )
    return replace(dcp.open(place), layout=NAME, notes=(note,))
