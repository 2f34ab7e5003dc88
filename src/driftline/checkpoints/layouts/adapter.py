"""LoRA adapters, as peft, TRL, OpenRLHF and verl's `lora_adapter/` write them: `adapter_model.safetensors`,
or `adapter_model.bin`, with its configuration.

What trains is the product ΔW = scale · B · A of each target matrix, so that is what a trajectory of adapters is made
of: A and B apart mean nothing (B·A is the same for B·R, R⁻¹·A), and are not linear in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from driftline.checkpoints.layouts import Checkpoint
from driftline.checkpoints.low_rank import assemble, lora_scale, on_weight
from driftline.checkpoints.safetensors_file import read_header
from driftline.checkpoints.tensors import LowRank, TensorInfo
from driftline.checkpoints.torch_file import read_state_dict
from driftline.errors import UnreadableCheckpoint
from driftline.files.json import read_json

NAME = "lora-adapter"
_WEIGHTS, _CONFIG, _STATE_DICT = "adapter_model.safetensors", "adapter_config.json", "adapter_model.bin"
_OTHER_KINDS = (
    "use_dora",
    "use_bdlora",
    "use_qalora",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "layer_replication",
    "alora_invocation_tokens",
    "target_parameters",
)


def holds(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (_WEIGHTS, _CONFIG, _STATE_DICT))


def open(folder: Path) -> Checkpoint:
    """The product of every target matrix, under the name of the weight that it changes, and modules trained whole.

    Raises:
        UnreadableCheckpoint: incomplete, damaged, or an adapter that is not B · A.
    """
    weights = next((folder / name for name in (_WEIGHTS, _STATE_DICT) if (folder / name).is_file()), None)
    if weights is None:
        raise UnreadableCheckpoint(f"{folder} has no {_WEIGHTS} yet: still being written, or weights were not saved")
    found = read_header(weights) if weights.name == _WEIGHTS else read_state_dict(weights)
    tensors = of_factors(found, weights, folder)
    if not tensors:
        raise UnreadableCheckpoint(f"{weights} holds no tensors: no adapter was saved there")
    return Checkpoint(folder, NAME, tensors)


def of_factors(tensors: Mapping[str, TensorInfo], where: Path, folder: Path) -> dict[str, TensorInfo]:
    """`low_rank.assemble`, by the scales that the `adapter_config.json` in `folder` gives.

    Raises:
        UnreadableCheckpoint: no configuration, or an adapter that is not B · A.
    """
    path = folder / _CONFIG
    config = _configuration(path)

    def scale(module: str, rank: int) -> float:
        alpha = _by_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha"))
        return lora_scale(alpha, rank, path, stabilised=bool(config.get("use_rslora")))

    return assemble(tensors, where, scale, transposed=bool(config.get("fan_in_fan_out")))


def on_base(adapter: Checkpoint, base: Checkpoint) -> Checkpoint:
    """The model that an adapter makes of its base: the base's tensors, those it changes summed as they are read.

    Raises:
        UnreadableCheckpoint: the base lacks a matrix that the adapter changes, or has it in another shape.
    """
    tensors = dict(base.tensors)
    for name, info in adapter.tensors.items():
        below = base.tensors.get(name)
        if below is None:
            raise UnreadableCheckpoint(
                f"{adapter.path} changes {name!r}, but the base {base.path} lacks it: give the base it was trained on"
            )
        tensors[name] = on_weight(info, below, adapter.path) if isinstance(info, LowRank) else info
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


def _by_pattern(patterns: Any, module: str, otherwise: Any) -> Any:
    """peft's rule: the first key that is a regular expression for the end of the module's name."""
    for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        except re.error:
            continue
    return otherwise
