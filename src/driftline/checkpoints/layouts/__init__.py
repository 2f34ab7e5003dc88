"""One small file per trainer's layout of a checkpoint folder.

A layout module has a docstring that names its trainers, a `NAME`, and two functions:

    holds(folder: Path) -> bool          is this such a checkpoint, complete or not?
    open(folder: Path) -> Checkpoint     its tensors; UnreadableCheckpoint when incomplete or damaged

To add one, write the module and add it to `all_layouts`; the first that holds a folder wins.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from driftline.checkpoints.safetensors_file import TensorInfo


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of one complete checkpoint, and what its configuration says of them."""

    path: Path
    layout: str
    tensors: dict[str, TensorInfo]
    tied: dict[str, str] = field(default_factory=dict)  # a copy -> the tensor it is a copy of


def all_layouts() -> tuple[ModuleType, ...]:
    from driftline.checkpoints.layouts import huggingface

    return (huggingface,)


def layout_of(folder: Path) -> ModuleType | None:
    """The layout that recognises `folder`, or None."""
    return next((layout for layout in all_layouts() if layout.holds(folder)), None)
