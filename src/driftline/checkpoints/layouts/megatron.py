"""Megatron-Core: recognised, not read. Its layers are stacked and cut in ways that only its own converters undo."""

from __future__ import annotations

from pathlib import Path

from driftline.checkpoints.layouts import Checkpoint
from driftline.errors import UnreadableCheckpoint

NAME = "megatron"
_WITHIN = ("", "dist_ckpt", "actor/dist_ckpt", "actor/model/dist_ckpt", "policy/weights/iter_0000000")


def holds(folder: Path) -> bool:
    return any((folder / within / "common.pt").is_file() for within in _WITHIN)


def open(folder: Path) -> Checkpoint:
    """Raises `UnreadableCheckpoint`, which says what converts it."""
    raise UnreadableCheckpoint(
        f"{folder} is a Megatron checkpoint: convert it to Hugging Face weights first, with Megatron Bridge "
        "(AutoBridge.export_ckpt), verl's `python -m verl.model_merger merge --backend megatron`, NeMo-RL's "
        "convert_megatron_to_hf.py or slime's convert_torch_dist_to_hf.py, whichever trainer wrote it"
    )
