"""Names of parameters without what trainers wrap around a model."""

from __future__ import annotations

import re
from collections.abc import Iterable

_WRAPPERS = re.compile(r"(?:_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\.")
_STATE = re.compile(
    r"(?:^|\.)(?:optim|optimizers?|lr_schedulers?|schedulers?|dataloader|train_state|rng_state|ema)(?:\.|$)"
)


def unwrapped(name: str) -> str:
    """Without the names that FSDP, activation checkpointing and torch.compile put in."""
    return _WRAPPERS.sub("", name)


def of_the_model(names: Iterable[str]) -> dict[str, str]:
    """Name in a trainer's state -> name in the model, for what belongs to the model and not to the optimizer and the like.

    `app.model.` (prime-rl) and `module.` are taken off, and `model.` where a wrapper put a second one before the
    model's own (`model.model.layers...`, or a head beside it).
    """
    found = {name: unwrapped(name) for name in names if not _STATE.search(name)}
    for prefix in ("app.", "module."):
        if found and all(short.startswith(prefix) for short in found.values()):
            wrapped = prefix == "app."
            found = {name: short.removeprefix(prefix) for name, short in found.items()}
            if wrapped and all(short.startswith("model.") for short in found.values()):
                return {name: short.removeprefix("model.") for name, short in found.items()}
    doubled = ("model.model.", "model.lm_head.", "model.transformer.")
    if all(short.startswith("model.") for short in found.values()) and any(
        short.startswith(doubled) for short in found.values()
    ):
        found = {name: short.removeprefix("model.") for name, short in found.items()}
    return found
