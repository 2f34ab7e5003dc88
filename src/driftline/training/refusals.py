"""Models and trainers that re-grounding refuses before the first step, each with a sentence that says what to do."""

from __future__ import annotations

import math
from typing import Any

import torch

from driftline.errors import InputError
from driftline.training import hooks, lora, zero3


def refuse_model(model: torch.nn.Module, optimizer: Any, *, adapters: str, treatment: str) -> None:
    """Raises `InputError` for trainable weights that are not where they seem to be, or no line goes through.

    Args:
        adapters: `refuse` or `product`.
        treatment: of the optimizer's state.
    """
    names = list(hooks.trainable(model))
    if not names:
        raise InputError("the model has no trainable parameters, so there is nothing to re-ground: unfreeze some")
    _refuse_adapters(model, names, adapters)
    by_deepspeed = type(optimizer).__name__.startswith("DeepSpeed")
    if by_deepspeed and not any(zero3.is_partitioned(p) for p in model.parameters()):
        raise InputError(
            "DeepSpeed below ZeRO stage 3 trains fp32 copies of its own, which would undo a jump at the next step: use "
            "stage 3, FSDP2 or DDP, or driftline reground around the whole command"
        )
    if by_deepspeed and treatment != "keep":
        raise InputError(
            f"optimizer={treatment!r}: DeepSpeed counts steps for all parameters at once, use optimizer='keep'"
        )
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        raise InputError("FSDP1 hides which parameters are norm layers: use FSDP2 (fsdp_version 2)")


def _refuse_adapters(model: torch.nn.Module, names: list[str], adapters: str) -> None:
    adapted = [name for name in names if "lora_" in name]
    if adapted and adapters == "refuse":
        raise InputError(
            "the model trains LoRA factors, and a line through A and through B is no line through their product: "
            "give adapters='product', train full weights, or merge after each cycle and use driftline reground"
        )
    if adapted and (hooks.holds_shards(model) or not all(lora.is_factor(name) for name in adapted)):
        raise InputError(
            f"adapters='product' knows whole factors lora_A and lora_B only, not {adapted[0]!r} as it is here: "
            "use driftline reground"
        )
    if getattr(model, "is_quantized", False) and not adapted:
        raise InputError(
            "the model's weights are quantised, and a line between codes means nothing: load it in bfloat16 or float32"
        )


def batches_of_a_generation(args: Any) -> int:
    """From one time that the trainer samples to the next; 1 for a trainer that does not sample."""
    return (getattr(args, "steps_per_generation", None) or 1) * getattr(args, "num_iterations", 1)


def steps_of_a_generation(args: Any, m: int) -> int:
    """Optimizer steps after which a step and a generation end together.

    Raises:
        InputError: `m` is no multiple of them.
    """
    accumulation = args.gradient_accumulation_steps
    unit = math.lcm(batches_of_a_generation(args), accumulation) // accumulation
    if m % unit:
        raise InputError(
            f"m={m} would jump between a generation and the last step that trains on it: the trainer generates "
            f"every {unit} optimizer steps, so use a multiple of {unit}, such as {-(-m // unit) * unit}"
        )
    return unit


def steps_of_a_probation(args: Any, logging_steps: int, m: int, unit: int, window: int) -> int:
    """Steps that the guard needs after a jump.

    Args:
        unit: `steps_of_a_generation`.

    Raises:
        InputError: rewards are not logged apart for before and after a jump, or too seldom.
    """
    if args.logging_strategy != "steps" or m % logging_steps:
        raise InputError(
            f"accept='reward' needs rewards logged apart for before and after a jump: set logging_steps to a "
            f"divisor of m={m}"
        )
    both = math.lcm(unit, logging_steps)
    probation = both * math.ceil(window * max(unit, logging_steps) / both)
    if probation >= m:
        raise InputError(
            f"accept='reward' needs {probation} steps to log {window} rewards, which is not less than "
            f"m={m}: log more often, or lower window"
        )
    return probation
