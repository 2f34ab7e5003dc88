"""Catching what modules of a model put out, or take in, while fixed responses run through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from driftline.errors import InputError
from driftline.outputs.rollouts import Rollout, batches
from driftline.outputs.teacher_forcing import padded
from driftline.progress import Advance, unseen

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Array = np.ndarray

_TOKENS = 8192  # of one batch


def decoder_layers(model: PreTrainedModel) -> torch.nn.ModuleList:
    """The stack of blocks: the longest list of modules in the model."""
    import torch

    stacks = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    if not stacks:
        raise InputError(f"{type(model).__name__} has no stack of layers to look into: use driftline logprobs instead")
    return max(stacks, key=len)


def run_with_hooks(
    model: PreTrainedModel,
    modules: Mapping[str, torch.nn.Module],
    rollouts: Sequence[Rollout],
    positions: Sequence[Array],
    take: Callable[[str, list[int], Array], None],
    *,
    outputs: bool,
    progress: Advance = unseen,
) -> None:
    """Run the rollouts; `take(name, rows, values [positions, width])` what modules put out, or take in, at the positions."""
    import torch

    wanted = [row for row in range(len(rollouts)) if len(positions[row])]
    with torch.inference_mode():
        for group in batches([rollouts[row].length for row in wanted], _TOKENS):
            rows = [wanted[i] for i in group]
            ids, mask = padded([rollouts[row].prompt_ids + rollouts[row].response_ids for row in rows], model.device)
            where = np.repeat(np.arange(len(rows)), [len(positions[row]) for row in rows])
            which = np.concatenate([positions[row] for row in rows])

            def keep(name: str, module: Any, taken: Any, given: Any, where=where, which=which, rows=rows) -> None:
                values = given if outputs else taken
                values = values[0] if isinstance(values, tuple) else values
                take(name, rows, values[where, which].float().cpu().numpy())

            with ExitStack() as hooks:
                for name, module in modules.items():
                    handle = module.register_forward_hook(partial(keep, name))
                    hooks.callback(handle.remove)
                getattr(model, model.base_model_prefix)(input_ids=ids, attention_mask=mask, use_cache=False)
            progress(int(mask.sum()))
