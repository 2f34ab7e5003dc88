"""LoRA adapters, as peft, TRL, OpenRLHF and verl's `lora_adapter/` write them: `adapter_model.safetensors` with its configuration.

What trains is the product ΔW = scale · B · A of each target matrix, so that is what a trajectory of adapters is made
of: A and B apart mean nothing (B·A is the same for B·R, R⁻¹·A), and are not linear in it.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from driftline.checkpoints.json_file import read_json
from driftline.checkpoints.layouts import Checkpoint
from driftline.checkpoints.safetensors_file import read_header
from driftline.checkpoints.tensors import LowRank, Stored, TensorInfo
from driftline.errors import UnreadableCheckpoint

NAME = "lora-adapter"
_WEIGHTS, _CONFIG, _PICKLE = "adapter_model.safetensors", "adapter_config.json", "adapter_model.bin"
_PREFIX = "base_model.model."
_OTHER_KINDS = (
    "use_dora", "use_bdlora", "use_qalora", "arrow_config", "kasa_config", "monteclora_config", "layer_replication",
    "alora_invocation_tokens", "target_parameters",
)  # fmt: skip
_FACTOR = re.compile(r"^(.*)\.lora_(embedding_)?([AB])(?:\.weight)?$")


def holds(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (_WEIGHTS, _CONFIG, _PICKLE))


def open(folder: Path) -> Checkpoint:
    """The product of every target matrix, under the name of the weight that it changes, and modules trained whole.

    Raises:
        UnreadableCheckpoint: incomplete, damaged, pickled, or an adapter that is not B · A.
    """
    if not (folder / _WEIGHTS).is_file():
        if (folder / _PICKLE).is_file():
            raise UnreadableCheckpoint(
                f"{folder} holds a pickled adapter only; load it once with peft and save_pretrained() for safetensors"
            )
        raise UnreadableCheckpoint(f"{folder} has no {_WEIGHTS} yet: still being written, or weights were not saved")
    config = _configuration(folder / _CONFIG)
    factors: dict[tuple[str, bool], dict[str, Stored]] = {}
    tensors: dict[str, TensorInfo] = {}
    for key, info in read_header(folder / _WEIGHTS).items():
        key = key.removeprefix(_PREFIX)
        if match := _FACTOR.match(key):
            factors.setdefault((match[1], match[2] is not None), {})[match[3]] = info
        elif ".lora_" in key:
            raise UnreadableCheckpoint(
                f"{folder / _WEIGHTS}: {key!r} is neither A nor B of a matrix: merge each checkpoint with peft's "
                "merge_and_unload(), and name the merged folders"
            )
        else:
            name = re.sub(r"\.(?:modules_to_save|base_layer)(?:\.default)?", "", key)
            tensors[name] = replace(info, name=name)
    for (module, embedding), pair in factors.items():
        transposed = embedding or bool(config.get("fan_in_fan_out"))
        tensors[f"{module}.weight"] = _product(folder, module, pair, config, transposed)
    if not tensors:
        raise UnreadableCheckpoint(f"{folder / _WEIGHTS} holds no tensors: no adapter was saved there")
    return Checkpoint(folder, NAME, tensors)


def on_base(adapter: Checkpoint, base: Checkpoint) -> Checkpoint:
    """The model that an adapter makes of its base: the base's tensors, those it changes summed as they are read.

    Raises:
        UnreadableCheckpoint: the base lacks a matrix that the adapter changes, or has it in another shape.
    """
    tensors = dict(base.tensors)
    for name, info in adapter.tensors.items():
        below = base.tensors.get(name)
        if below is None or below.shape != info.shape:
            has = f"has it as {list(below.shape)}" if below else "lacks it"
            raise UnreadableCheckpoint(
                f"{adapter.path} changes {name!r} {list(info.shape)}, but the base {base.path} {has}: give the base it was trained on"
            )
        tensors[name] = replace(info, base=below) if isinstance(info, LowRank) else info
    return replace(adapter, tensors=tensors, tied=base.tied, model_folder=base.model)


def _configuration(path: Path) -> dict[str, Any]:
    try:
        config = read_json(path)
    except OSError as error:
        raise UnreadableCheckpoint(f"{path} cannot be read ({error.strerror}): the adapter's scale is in it") from error
    except ValueError as error:
        raise UnreadableCheckpoint(f"{path} is damaged or still being written") from error
    if not isinstance(config, dict) or config.get("peft_type", "LORA") != "LORA":
        raise UnreadableCheckpoint(f"{path} is not of a LoRA adapter: merge each checkpoint into a full model first")
    for option in _OTHER_KINDS:
        if config.get(option):
            raise UnreadableCheckpoint(
                f"{path} has {option}, whose change is not scale·B·A of one matrix: merge each checkpoint with peft's "
                "merge_and_unload(), and name the merged folders"
            )
    return config


def _product(folder: Path, module: str, pair: dict[str, Stored], config: dict[str, Any], transposed: bool) -> LowRank:
    left, right = pair.get("B"), pair.get("A")
    where = folder / _WEIGHTS
    if left is None or right is None:
        raise UnreadableCheckpoint(f"{where} lacks lora_{'B' if left is None else 'A'} of {module!r}: damaged")
    if len(left.shape) != 2 or len(right.shape) != 2 or left.shape[1] != right.shape[0] or right.shape[0] == 0:
        raise UnreadableCheckpoint(
            f"{where}: lora_B {list(left.shape)} and lora_A {list(right.shape)} of {module!r} do not make a matrix; only "
            "linear and embedding layers are read"
        )
    fan_out, fan_in = left.shape[0], right.shape[1]
    shape = (fan_in, fan_out) if transposed else (fan_out, fan_in)
    return LowRank(
        f"{module}.weight", shape, "F32", where, left, right, _scale(folder, module, right.shape[0], config), transposed
    )


def _scale(folder: Path, module: str, rank: int, config: dict[str, Any]) -> float:
    """alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA, with the module's own alpha if it has one."""
    alpha = _by_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha"))
    if not isinstance(alpha, (int, float)) or isinstance(alpha, bool) or not math.isfinite(alpha):
        raise UnreadableCheckpoint(f"{folder / _CONFIG} has no number as lora_alpha: the adapter's scale is not known")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _by_pattern(patterns: Any, module: str, otherwise: Any) -> Any:
    """peft's rule: the first key that is a regular expression for the end of the module's name."""
    for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        except re.error:
            continue
    return otherwise
