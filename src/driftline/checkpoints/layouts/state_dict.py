"""A state dict of torch.save: `pytorch_model.bin`, its shards, or accelerate's `pytorch_model_fsdp.bin` (FSDP, gathered).

Read where the tensors lie; nothing in the pickle is executed (`torch_file`).
"""

from __future__ import annotations

from pathlib import Path

from driftline.checkpoints.layouts import Checkpoint, huggingface
from driftline.checkpoints.torch_file import read_state_dict
from driftline.errors import UnreadableCheckpoint

NAME = "torch-state-dict"
_INDEX = "pytorch_model.bin.index.json"
_FILES = ("pytorch_model.bin", _INDEX, "pytorch_model_fsdp.bin")


def holds(place: Path) -> bool:
    return _file(place) is not None


def _file(place: Path) -> Path | None:
    return next((place / name for name in _FILES if (place / name).is_file()), None)


def open(place: Path) -> Checkpoint:
    """The tensors, of a single file before shards, as `from_pretrained` takes them.

    Raises:
        UnreadableCheckpoint: a file is missing, truncated or damaged, or the index names one outside the folder.
    """
    file = _file(place)
    if file is None:
        raise UnreadableCheckpoint(f"{place} holds no state dict: still being written, or lost")
    if file.name == _INDEX:
        return Checkpoint(place, NAME, huggingface.sharded(file, read_state_dict))
    return Checkpoint(place, NAME, dict(read_state_dict(file)))
