"""What a jump and its roll-back do to the optimizer's state, whole or in shards."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import torch

from driftline.training import hooks, zero3

TREATMENTS = ("keep", "reset", "rescale")
_FIRST_MOMENTS = {"exp_avg", "momentum_buffer"}


def treat(model: torch.nn.Module, optimizer: Any, moved: Container[str], *, treatment: str, alpha: float) -> None:
    """Of the parameters that jumped: `keep` the state, `reset` it, or `rescale` first moments by 1 / alpha."""
    if treatment == "keep":
        return
    for name, parameter in model.named_parameters():
        if name not in moved:
            continue
        kept = optimizer.state[parameter]
        if treatment == "reset":
            kept.clear()
            continue
        for moment in kept.keys() & _FIRST_MOMENTS:
            if kept[moment] is not None:
                hooks.local(kept[moment]).div_(alpha)


def copied(model: torch.nn.Module, optimizer: Any) -> dict[str, dict[str, Any]]:
    """A copy of the local state of every trainable parameter."""
    return {
        name: zero3.optimizer_state(parameter)
        if zero3.is_partitioned(parameter)
        else {
            key: hooks.local(value).clone() if isinstance(value, torch.Tensor) else value
            for key, value in optimizer.state[parameter].items()
        }
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state or (zero3.is_partitioned(parameter) and parameter.requires_grad)
    }


def restore(model: torch.nn.Module, optimizer: Any, saved: dict[str, dict[str, Any]]) -> None:
    """Put back what `copied` gave."""
    for name, parameter in model.named_parameters():
        if zero3.is_partitioned(parameter):
            zero3.set_optimizer_state(parameter, saved.get(name, {}))
            continue
        for key, value in saved.get(name, {}).items():
            current = optimizer.state[parameter].get(key)
            if isinstance(current, torch.Tensor):
                hooks.local(current).copy_(value)
            else:
                optimizer.state[parameter][key] = value
