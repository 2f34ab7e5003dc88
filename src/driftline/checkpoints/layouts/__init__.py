"""One small file per trainer's layout of a checkpoint folder.

A layout module has a docstring that names its trainers, a `NAME`, and two functions:

    holds(folder: Path) -> bool          are there weights in this layout, complete or not?
    open(folder: Path) -> Checkpoint     its tensors; UnreadableCheckpoint when incomplete or damaged

To add one, write the module and add it to `all_layouts`; the first that holds a folder is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from driftline.checkpoints.tensors import TensorInfo
from driftline.files import remote

PRECEDENCE = "full precision comes first, then whole models, then adapters"
READ_REMOTELY = ("huggingface", "torch-state-dict", "lora-adapter")


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of one complete checkpoint, and what its configuration says of them.

    Attributes:
        tied: a copy -> the tensor it is a copy of.
        model_folder: where its configuration and tokenizer are, if not in `path`.
        notes: sentences its reader should know, for `driftline inspect`.
    """

    path: Path
    layout: str
    tensors: dict[str, TensorInfo]
    tied: dict[str, str] = field(default_factory=dict)
    model_folder: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def model(self) -> Path:
        """The folder that holds its configuration and tokenizer."""
        return self.model_folder or self.path


def all_layouts() -> tuple[ModuleType, ...]:
    """In the order in which they are tried: full precision before rounded copies, whole models before adapters."""
    from driftline.checkpoints.layouts import adapter, dcp, deepspeed, huggingface, megatron, sliced, state_dict, verl

    return (verl, megatron, dcp, deepspeed, sliced, huggingface, state_dict, adapter)


def layouts_of(folder: Path) -> list[ModuleType]:
    """The layouts that find weights in `folder`, the one to read first.

    Of a remote folder those whose files can be read by range requests are asked alone if they find any; so are they
    beside Megatron's shards, which are not read.
    """
    if remote.is_remote(folder):
        found = [layout for layout in all_layouts() if layout.NAME in READ_REMOTELY and layout.holds(folder)]
        if found:
            return found
    found = [layout for layout in all_layouts() if layout.holds(folder)]
    readable = [layout for layout in found if layout.NAME in READ_REMOTELY]
    if readable and any(layout.NAME == "megatron" for layout in found):
        return readable  # what is beside a layout that cannot be read
    return found
