"""Names of parameters without what trainers wrap around a model."""

from __future__ import annotations

import re
from collections.abc import Iterable

# put in by FSDP, activation checkpointing, torch.compile and Lightning, anywhere in a name
_INSIDE = re.compile(r"(?:_fsdp_wrapped_module|_checkpoint_wrapped_module|_fpw_module|_orig_mod)\.")
# around the whole model: DDP and DeepSpeed, a value head's wrapper, peft
_AROUND = ("module.", "_forward_module.", "pretrained_model.", "base_model.model.")
_STATE = re.compile(
    r"(?:^|\.)(?:optim|optimizers?|lr_schedulers?|schedulers?|dataloader|train_state|rng_state|ema)(?:\.|$)"
)
_INNER = tuple(
    f"model.{inner}"
    for inner in (
        "model.",
        "lm_head.",
        "transformer.",
        "language_model.model.",
        "base_model.",
        "pretrained_model.",
        "module.",
        "_",
    )
)
VALUE_HEAD = re.compile(r"^(?:v_head|value_head|critic_head)\.")


def unwrapped(name: str) -> str:
    """Without the names that wrappers of modules put in, in any nesting; `lm_head.weight` of
    `module._orig_mod.pretrained_model.lm_head.weight`."""
    name = _INSIDE.sub("", name)
    while shorter := next((name.removeprefix(prefix) for prefix in _AROUND if name.startswith(prefix)), None):
        name = shorter
    return name


def of_a_state(names: Iterable[str]) -> list[str]:
    """Those of a trainer's whole state that are not of its optimizer, scheduler, data loader and the like."""
    return [name for name in names if not _STATE.search(name)]


def of_the_model(names: Iterable[str], *, state: bool = True) -> dict[str, str]:
    """Name as a trainer saved it -> name in the model.

    `app.model.` (prime-rl) and the `model.` of a whole state are taken off too, the latter where a second one or a head
    shows that it is not the model's own (`model.model.layers...`, `model.lm_head...`).

    Args:
        state: the names are of a trainer's state; those of a model's own folder begin as it pleases.
    """
    found = {name: unwrapped(name) for name in names}
    while found and state:
        shorter = _without_state(found.values())
        if shorter is None:
            break
        found = {name: unwrapped(short.removeprefix(shorter)) for name, short in found.items()}
    return found


def _without_state(names: Iterable[str]) -> str | None:
    """The key of a state that all names begin with."""
    names = list(names)
    for prefix in ("app.model.", "app."):
        if all(name.startswith(prefix) for name in names):
            return prefix
    if all(name.startswith("model.") for name in names) and any(name.startswith(_INNER) for name in names):
        return "model."
    return None
