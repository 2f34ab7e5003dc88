"""A checkpoint of a trajectory as a model that runs, whatever its layout."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from driftline import models
from driftline.checkpoints.layouts import Checkpoint, huggingface
from driftline.checkpoints.low_rank import needs_base
from driftline.checkpoints.tensors import TensorInfo
from driftline.errors import InputError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_SLICE = 1 << 24  # weights read at a time


def load_checkpoint(checkpoint: Checkpoint | Path, *, dtype: str = "auto") -> PreTrainedModel:
    """The causal language model of a checkpoint, or of a model's folder, in evaluation mode.

    transformers loads its own folders. Of every other layout (ranks' shards, an adapter on its base) the configuration
    makes the model, and the tensors that the layout found are read into it, slice by slice.

    Raises:
        InputError: it cannot be loaded, has no configuration, or lacks a parameter of the model that it describes.
    """
    if not isinstance(checkpoint, Checkpoint):
        return models.load_model(checkpoint, dtype=dtype)
    if checkpoint.layout == huggingface.NAME:
        return models.load_model(checkpoint.model, dtype=dtype)
    if any(map(needs_base, checkpoint.tensors.values())):
        raise InputError(f"{checkpoint.path} is a LoRA adapter: say with --base which model it was trained on")
    stored = {info.dtype for info in checkpoint.tensors.values()}
    if dtype == "auto":
        dtype = "bfloat16" if stored == {"BF16"} else "float16" if stored == {"F16"} else "float32"
    model = models.model_of(checkpoint.model, dtype=dtype)
    taken = dict(model.named_parameters())  # a tied one appears once
    missing = sorted(set(taken) - set(checkpoint.tensors))
    if missing:
        raise InputError(
            f"{checkpoint.path} has no tensor {missing[0]!r}, which the model in {checkpoint.model} needs: its names are "
            "not those of transformers; convert it with its trainer's own script"
        )
    for name, parameter in taken.items():
        info = checkpoint.tensors[name]
        if info.shape != tuple(parameter.shape):
            raise InputError(
                f"{info.file}: tensor {name!r} has shape {list(info.shape)} where the configuration in {checkpoint.model} "
                f"asks for {list(parameter.shape)}: put the configuration of this model there"
            )
        _fill(parameter, info)
    return model


def _fill(parameter: torch.nn.Parameter, info: TensorInfo) -> None:
    import torch

    flat = parameter.data.view(-1)
    for start in range(0, info.size, _SLICE):
        stop = min(start + _SLICE, info.size)
        flat[start:stop] = torch.from_numpy(info.values(start, stop)).to(flat)
