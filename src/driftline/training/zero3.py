"""DeepSpeed ZeRO-3: each process holds a flat part of every parameter, and the fp32 part that its optimizer trains.

A jump is done on those fp32 parts, since parameters are made from them at every step. What is written to them
then goes into the low-precision parts, and into the small parameters that DeepSpeed keeps whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

_MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer")


def is_partitioned(parameter: torch.Tensor) -> bool:
    return hasattr(parameter, "ds_id")


def local(parameter: Any) -> torch.Tensor:
    """This process's fp32 part, flat: a view of the optimizer's, or a copy of it where that is offloaded."""
    from deepspeed.utils import safe_get_local_fp32_param

    return safe_get_local_fp32_param(parameter).detach()


def write_back(changed: Iterable[tuple[Any, torch.Tensor]]) -> None:
    """Make the parameters what their fp32 parts now are: (parameter, new value of its part) of each that changed."""
    changed = list(changed)
    if not changed:
        return
    from deepspeed.utils import safe_set_local_fp32_param

    optimizer = changed[0][0]._z3_optimizer
    optimizer.checkpoint_event_prologue()  # let go of whatever is gathered
    for parameter, value in changed:
        safe_set_local_fp32_param(parameter, value)
        parameter.ds_tensor.data.copy_(value)
    optimizer.checkpoint_event_epilogue()  # gather again what is kept whole


def optimizer_state(parameter: Any) -> dict[str, Any]:
    """A copy of this process's part of the optimizer's state, and of what it holds of the whole group (its step)."""
    return {
        name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in _state(parameter).items()
    }


def set_optimizer_state(parameter: Any, saved: dict[str, Any]) -> None:
    from deepspeed.utils import safe_set_local_optimizer_state

    for name, value in saved.items():
        if name in _MOMENTS:
            safe_set_local_optimizer_state(parameter, value, name)
        else:
            _group_state(parameter)[name] = value.clone() if isinstance(value, torch.Tensor) else value


def _state(parameter: Any) -> dict[str, Any]:
    from deepspeed.utils import safe_get_local_optimizer_state

    return {
        name: safe_get_local_optimizer_state(parameter, name).detach() if name in _MOMENTS else value
        for name, value in _group_state(parameter).items()
    }


def _group_state(parameter: Any) -> dict[str, Any]:
    """What the optimizer keeps of the flat group that the parameter's part lies in."""
    zero = parameter._z3_optimizer
    group, _, _ = zero.grad_position[zero.get_param_id(parameter)]
    return zero.optimizer.state[zero.fp32_partitioned_groups_flat[group]]
