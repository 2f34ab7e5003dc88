"""A state dict of torch.save: `pytorch_model.bin`, its shards, or accelerate's `pytorch_model_fsdp.bin` (FSDP, gathered).

Read where the tensors lie; nothing in the pickle is executed (`torch_file`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from driftline.checkpoints.layouts import Checkpoint, huggingface
from driftline.checkpoints.parameter_names import of_the_model
from driftline.checkpoints.torch_file import read_state_dict
from driftline.errors import UnreadableCheckpoint

NAME = "torch-state-dict"
_INDEX = "pytorch_model.bin.index.json"
_SINGLE = ("pytorch_model.bin", "pytorch_model_fsdp.bin")


def holds(folder: Path) -> bool:
    return _file(folder) is not None


def _file(folder: Path) -> Path | None:
    files = (folder / within / name for within in huggingface.WITHIN for name in (_INDEX, *_SINGLE))
    return next((file for file in files if file.is_file()), None)


def open(folder: Path) -> Checkpoint:
    """The parameters, under the model's own names.

    Raises:
        UnreadableCheckpoint: a file is missing, truncated or damaged, or the index names one outside the folder;
            or the trainer's mark of completeness is not there yet.
    """
    file = _file(folder)
    if file is None:
        raise UnreadableCheckpoint(f"{folder} holds no state dict: still being written, or lost")
    huggingface.refuse_unmarked(folder, file.parent)
    found = huggingface.sharded(file, read_state_dict) if file.name == _INDEX else dict(read_state_dict(file))
    names = of_the_model(found)
    tensors = {short: replace(found[name], name=short) for name, short in names.items()}
    place = file.parent
    return Checkpoint(folder, NAME, tensors, huggingface.tied(place, tensors), place if place != folder else None)
