"""Megatron-Core: shards with a `common.pt` are of its older format, and recognised only; newer `torch_dist` folders have
torch's `.metadata`, and are read as such (`dcp`) for measuring. Layers are stacked there, and rows interleaved, which only
the trainers' converters undo: no model can be written of them."""

from __future__ import annotations

from pathlib import Path

from driftline.checkpoints.layouts import Checkpoint
from driftline.errors import UnreadableCheckpoint

NAME = "megatron"
CONVERTERS = (
    "convert it to Hugging Face weights first, with Megatron Bridge (AutoBridge.export_ckpt), verl's `python -m "
    "verl.model_merger merge --backend megatron`, NeMo-RL's convert_megatron_to_hf.py or slime's "
    "convert_torch_dist_to_hf.py, whichever trainer wrote it"
)


def holds(place: Path) -> bool:
    return (place / "common.pt").is_file() and not (place / ".metadata").is_file()


def open(place: Path) -> Checkpoint:
    """Raises `UnreadableCheckpoint`, which says what converts it."""
    raise UnreadableCheckpoint(f"{place} is a Megatron checkpoint: {CONVERTERS}")


def stacked(checkpoint: Checkpoint) -> bool:
    """Whether the tensors have Megatron's names, with all layers in one tensor or in order."""
    return any("decoder.layers." in name and ".linear_" in name for name in checkpoint.tensors)
