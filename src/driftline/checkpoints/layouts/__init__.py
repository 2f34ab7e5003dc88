"""One small file per trainer's layout of weights.

A layout module has a docstring that names its trainers, a `NAME`, and two functions:

    holds(place: Path) -> bool          are there weights in this layout, complete or not?
    open(place: Path) -> Checkpoint     its tensors, under the names they have there; UnreadableCheckpoint when incomplete
                                        or damaged

`place` is the folder that the files lie in; which folder of a step that is, `checkpoints/opening.py` finds out, and
there names are made comparable. To add a layout, write the module and add it to `all_layouts`; the first that holds a
folder is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from driftline.checkpoints.tensors import TensorInfo
from driftline.files import remote

if TYPE_CHECKING:
    from driftline.checkpoints.adapter_settings import AdapterSettings

PRECEDENCE = "full precision comes first, then whole models, then adapters"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
READ_REMOTELY = ("huggingface", "torch-state-dict", "lora-adapter")


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of one complete checkpoint, and what its configuration says of them.

    Attributes:
        path: the folder of the step.
        tied: a copy -> the tensor it is a copy of.
        model_folder: where its configuration and tokenizer are, if not in `path`.
        notes: sentences its reader should know.
        place: the folder that its weights lie in, if not `path`.
        left_out: tensor -> why it is no part of the model.
        settings: of the adapter, where it is one.
        as_saved: its folder is one that transformers loads as it is.
    """

    path: Path
    layout: str
    tensors: dict[str, TensorInfo]
    tied: dict[str, str] = field(default_factory=dict)
    model_folder: Path | None = None
    notes: tuple[str, ...] = ()
    place: Path | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    settings: AdapterSettings | None = None
    as_saved: bool = False

    @property
    def model(self) -> Path:
        """The folder that holds its configuration and tokenizer."""
        return self.model_folder or self.path

    @property
    def tokenizer(self) -> Path | None:
        """The folder that holds its tokenizer: with the configuration, or apart, as NeMo-RL keeps it."""
        apart = () if remote.is_remote(self.path) else (self.path / "policy" / "tokenizer", self.path / "tokenizer")
        return next((p for p in (self.model, *apart) if any((p / name).is_file() for name in _TOKENIZER)), None)


def all_layouts() -> tuple[ModuleType, ...]:
    """In the order in which they are tried: full precision before rounded copies, whole models before adapters."""
    from driftline.checkpoints.layouts import adapter, dcp, deepspeed, huggingface, megatron, sliced, state_dict, verl

    return (verl, megatron, dcp, deepspeed, sliced, huggingface, state_dict, adapter)
