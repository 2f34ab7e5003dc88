"""LoRA adapters, as peft, TRL, OpenRLHF, NeMo-RL and verl's `lora_adapter/` write them: `adapter_model.safetensors`, or
`adapter_model.bin`, with its configuration. `low_rank` puts the factors together."""

from __future__ import annotations

from pathlib import Path

from driftline.checkpoints.adapter_settings import CONFIG
from driftline.checkpoints.layouts import Checkpoint
from driftline.checkpoints.safetensors_file import read_header
from driftline.checkpoints.torch_file import read_state_dict
from driftline.errors import UnreadableCheckpoint

NAME = "lora-adapter"
_WEIGHTS, _STATE_DICT = "adapter_model.safetensors", "adapter_model.bin"


def holds(place: Path) -> bool:
    return any((place / name).is_file() for name in (_WEIGHTS, CONFIG, _STATE_DICT))


def open(place: Path) -> Checkpoint:
    """The factors, and the modules that were trained whole.

    Raises:
        UnreadableCheckpoint: incomplete or damaged.
    """
    weights = next((place / name for name in (_WEIGHTS, _STATE_DICT) if (place / name).is_file()), None)
    if weights is None:
        raise UnreadableCheckpoint(f"{place} has no {_WEIGHTS} yet: still being written, or weights were not saved")
    if not (place / CONFIG).is_file():
        raise UnreadableCheckpoint(
            f"{place / CONFIG} cannot be read (No such file or directory): the adapter's scale is in it"
        )
    found = read_header(weights) if weights.name == _WEIGHTS else read_state_dict(weights)
    if not found:
        raise UnreadableCheckpoint(f"{weights} holds no tensors: no adapter was saved there")
    return Checkpoint(place, NAME, dict(found))
