"""Where in a step's folder its weights lie, and in which layout."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from driftline.checkpoints import layouts
from driftline.checkpoints.folder_names import step_name
from driftline.checkpoints.layouts import READ_REMOTELY, dcp, megatron
from driftline.errors import UnreadableCheckpoint
from driftline.files import remote

# Where trainers put weights in a step's folder; the first that holds a layout is read.
_KNOWN = (
    "",
    "actor",  # verl
    "policy",  # SkyRL
    "policy/weights/model",  # NeMo-RL
    "policy/weights",
    "trainer",  # prime-rl
    "pytorch_model_fsdp_0",  # accelerate
    "actor/huggingface",  # verl, rounded
    "actor/model/huggingface",
    "actor/model",  # verl with NeMo-Automodel
    "huggingface",
    "model",
    "weights",
    "sharded",  # torch's Hugging Face writer
    "hf",
    "actor/hf",
    "policy/huggingface",
    "merged",
)
_REMOTE = ("", "actor/huggingface", "actor/model/huggingface")  # where each look is a request
# folders that hold something else than the model that trains
_OF_OTHERS = (
    "critic",
    "optim",
    "ref",
    "reward",
    "rm",
    "data",
    "tokenizer",
    "extra",
    "scheduler",
    "ema",
    "old",
    "tmp",
    "rng",
)
_DEPTH = 3


def layouts_in(folder: Path) -> list[tuple[ModuleType, Path]]:
    """The layouts that find weights in a step's folder, each with the place, the one to read first.

    Of a remote folder those whose files can be read by range requests are asked alone if they find any.
    """
    if remote.is_remote(folder):
        places = [folder / within for within in _REMOTE]
        found = [*_held((one for one in layouts.all_layouts() if one.NAME in READ_REMOTELY), places)]
        return found or [*_held(layouts.all_layouts(), places)]
    places = [place for within in _KNOWN if (place := folder / within).is_dir()]
    places += _again(folder)
    found = [*_held(layouts.all_layouts(), places)]
    if not found:
        deeper = [place for place in _below(folder, _DEPTH) if any(one.holds(place) for one in layouts.all_layouts())]
        deeper = [
            place for place in deeper if not any(place.is_relative_to(other) for other in deeper if other != place)
        ]
        if len(deeper) > 1:
            raise UnreadableCheckpoint(
                f"{folder} holds weights in {' and '.join(str(place.relative_to(folder)) for place in deeper)}: name the one "
                f"to use, as STEP={deeper[0]}"
            )
        found = [*_held(layouts.all_layouts(), deeper)]
    if not any(layout is megatron for layout, _ in found):
        return found
    readable = [one for one in found if one[0].NAME in READ_REMOTELY]  # a model can be made of them
    return readable or [one for one in found if one[0] is not dcp]


def _again(folder: Path) -> list[Path]:
    """Folders in a step's folder that are named for a step too: transformers with DeepSpeed, verl with torchtitan."""
    step = step_name(folder.name)
    found = [(step_name(child.name), child) for child in sorted(folder.iterdir()) if child.is_dir()]
    return [
        child
        for name, child in found
        if name and (child.name.startswith("global_step") or (step and name.step == step.step))
    ]


def _held(tried: Iterable[ModuleType], places: list[Path]) -> Iterable[tuple[ModuleType, Path]]:
    for layout in tried:
        place = next((place for place in places if layout.holds(place)), None)
        if place is not None:
            yield layout, place


def _below(folder: Path, depth: int) -> list[Path]:
    """Folders in a step's folder that may hold its weights, and not those of something else."""
    found = []
    for child in sorted(folder.iterdir()) if depth else ():
        other = child.name.lower().startswith((*_OF_OTHERS, ".")) or step_name(child.name)
        if child.is_dir() and not child.is_symlink() and not other:
            found += [child, *_below(child, depth - 1)]
    return found
