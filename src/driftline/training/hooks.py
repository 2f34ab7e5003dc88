"""What a callback needs of a trainer beyond what the trainer hands it: its logs, its local shards, its checkpoints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from driftline.errors import InputError
from driftline.files.atomic import replacing
from driftline.training import zero3

if TYPE_CHECKING:
    from transformers import TrainerCallback, TrainerState, TrainingArguments

Values = dict[str, torch.Tensor]  # of parameters, by name


def report_before_others(callback: TrainerCallback) -> None:
    """Move `callback`, which must be the caller's caller's event handler, to the head of the trainer's callbacks.

    W&B, trackio and TensorBoard are callbacks too and come before those of a script, so what a script's
    callback adds to `logs` would never reach them. A trainer does not hand its callbacks the list that they
    are in; it is held by the frame that calls the event.
    """
    handler = sys._getframe(2).f_locals.get("self")
    callbacks = getattr(handler, "callbacks", None)
    if isinstance(callbacks, list) and callback in callbacks:
        callbacks.remove(callback)
        callbacks.insert(0, callback)


def add_to_logs(state: TrainerState, logs: dict[str, Any], figures: dict[str, float]) -> None:
    """Into the logs that reporters will see, and into the trainer's own history of them."""
    logs.update(figures)
    if state.log_history and state.log_history[-1].get("step") == state.global_step:
        state.log_history[-1].update(figures)


def trainable(model: torch.nn.Module) -> Values:
    """The trainable parameters' local values by name, without gradient: whole tensors, or this process's shards."""
    with torch.no_grad():
        return {name: local(parameter) for name, parameter in model.named_parameters() if parameter.requires_grad}


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that this process holds, sharing its memory; of DeepSpeed's see `write_back`."""
    if zero3.is_partitioned(tensor):
        return zero3.local(tensor)
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor.detach()


def is_sharded(tensor: torch.Tensor) -> bool:
    return hasattr(tensor, "to_local") or zero3.is_partitioned(tensor)  # a DTensor, as FSDP2 makes, or DeepSpeed's


def holds_shards(model: torch.nn.Module) -> bool:
    return any(is_sharded(parameter) for parameter in model.parameters())


def write_back(model: torch.nn.Module, values: Values) -> None:
    """Let the model have local values that were changed in place; only DeepSpeed's need it."""
    parameters = {name: p for name, p in model.named_parameters() if zero3.is_partitioned(p)}
    zero3.write_back((parameters[name], value) for name, value in values.items() if name in parameters)


def mean_over_processes(value: float) -> float:
    """Of a figure that each process has its own of; the same on all, so that all decide alike."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    on_device = torch.distributed.get_backend() == "nccl"
    total = torch.tensor(value, dtype=torch.float32, device="cuda" if on_device else "cpu")
    torch.distributed.all_reduce(total)
    return float(total) / torch.distributed.get_world_size()


def state_file(args: TrainingArguments, state: TrainerState, name: str, *, sharded: bool) -> Path | None:
    """Where a callback keeps its state in the checkpoint of the current step; None where no such checkpoint is.

    One file, or one for each process where parameters are sharded.
    """
    given = args.resume_from_checkpoint
    folders = [
        Path(args.output_dir) / f"checkpoint-{state.global_step}",
        *([Path(given)] if isinstance(given, str) else []),
    ]
    suffix = f"-{args.process_index}" if sharded else ""
    return next((folder / f"{name}{suffix}.pt" for folder in folders if folder.is_dir()), None)


def save_state(path: Path, content: dict[str, Any]) -> None:
    """Save in one piece."""
    with replacing(path) as file:
        torch.save(content, file)


def load_state(path: Path) -> dict[str, Any]:
    """What `save_state` saved; tensors on the CPU.

    Raises:
        InputError: the file is damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch names no exception of its own for a damaged file
        raise InputError(f"{path} is damaged ({type(error).__name__}): resume from another checkpoint") from error
