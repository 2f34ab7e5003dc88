"""A checkpoint of a trajectory as a model that runs, whatever its layout."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from driftline import models
from driftline.checkpoints.comparable import writable
from driftline.checkpoints.layouts import Checkpoint
from driftline.checkpoints.matching import as_named
from driftline.checkpoints.tensors import TensorInfo
from driftline.checkpoints.true_config import true_to
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
    if checkpoint.as_saved:
        return models.load_model(checkpoint.model, dtype=dtype)
    if (why := writable(checkpoint)) is not None:
        raise InputError(why)
    stored = {info.written for info in checkpoint.tensors.values()}
    if dtype == "auto":
        dtype = "bfloat16" if stored == {"BF16"} else "float16" if stored == {"F16"} else "float32"
    model = models.model_of(
        checkpoint.model,
        dtype=dtype,
        holds=sum(info.size for info in checkpoint.tensors.values()),
        changed=lambda config: true_to(config, checkpoint.tensors, checkpoint.tied),
    )
    taken = _wanted(model)
    shapes = {name: TensorInfo(name, tuple(value.shape), "F32", checkpoint.path) for name, value in taken.items()}
    tensors = as_named(checkpoint.tensors, shapes)
    missing = sorted(name for name in set(dict(model.named_parameters())) - set(tensors))
    if missing:
        raise InputError(
            f"{checkpoint.path} has no tensor {missing[0]!r}, which the model in {checkpoint.model} needs: its names are "
            "not those of transformers; convert it with its trainer's own script"
        )
    for name, parameter in taken.items():
        info = tensors.get(name)
        if info is None:
            continue  # a buffer that the model makes itself
        if info.shape != tuple(parameter.shape):
            raise InputError(
                f"{info.file}: tensor {name!r} has shape {list(info.shape)} where the configuration in {checkpoint.model} "
                f"asks for {list(parameter.shape)}: put the configuration of this model there"
            )
        _fill(parameter, info)
    return model


def _wanted(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Parameters, and the buffers that are saved with them; a tied one appears once."""
    saved = model.state_dict()
    buffers = {name: value for name, value in model.named_buffers() if name in saved and value.is_floating_point()}
    return {**dict(model.named_parameters()), **buffers}


def _fill(parameter: torch.Tensor, info: TensorInfo) -> None:
    import torch

    flat = parameter.data.view(-1)
    for start in range(0, info.size, _SLICE):
        stop = min(start + _SLICE, info.size)
        flat[start:stop] = torch.from_numpy(info.values(start, stop)).to(flat)
