"""One step's folder opened: where its weights lie in it, in which layout, and under which names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from driftline.checkpoints.comparable import comparable, on_base
from driftline.checkpoints.discovery import STEP_NAME
from driftline.checkpoints.layouts import (
    PRECEDENCE,
    READ_REMOTELY,
    Checkpoint,
    adapter,
    all_layouts,
    dcp,
    huggingface,
    megatron,
)
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
_MANIFEST = "actor/ckpt_contents.json"  # verl's, of the newer layout
_STABLE, _STABLE_IN = "STABLE", ("weights", "broadcasts")  # prime-rl's


def open_checkpoint(folder: Path) -> Checkpoint:
    """The tensors of a step's folder, under the model's own names; an adapter without its base as the change that it is.

    Raises:
        UnreadableCheckpoint: no weights, weights in several places, incomplete or damaged.
    """
    try:
        with remote.faults(folder):
            found = _layouts(folder)
            if not found:
                list(folder.iterdir())  # raises where a server fails: to look for a file there says no such file
                raise UnreadableCheckpoint(f"{folder} holds no weights yet: still being written, or not a model")
            layout, place = found[0]
            if remote.is_remote(folder) and layout.NAME not in READ_REMOTELY:
                raise UnreadableCheckpoint(
                    f"{folder} is in the layout {layout.NAME}, which is read from local files only; copy the run to a "
                    "local folder"
                )
            _refuse_unmarked(folder, place)
            opened = layout.open(place)
            opened = replace(opened, path=folder, place=place, model_folder=_model_folder(folder, place))
            checkpoint = _with_adapter(comparable(opened))
        others = [
            f"{one.NAME} in {where}" if where != place else one.NAME
            for one, where in found[1:]
            if one is not adapter or checkpoint.settings is None  # it says the scale of what is read
        ]
        if others:
            note = f"{folder} holds {' and '.join([layout.NAME, *others])}: {layout.NAME} is read: {PRECEDENCE}"
            checkpoint = replace(checkpoint, notes=(*checkpoint.notes, note))
        return checkpoint
    except OSError as error:
        raise UnreadableCheckpoint(f"{folder} cannot be read ({error.strerror}): check its permissions") from error
    except RecursionError as error:
        raise UnreadableCheckpoint(f"{folder} has a damaged file: its JSON is nested too deeply") from error


def _layouts(folder: Path) -> list[tuple[ModuleType, Path]]:
    """The layouts that find weights in a step's folder, each with the place, the one to read first.

    Of a remote folder those whose files can be read by range requests are asked alone if they find any.
    """
    if remote.is_remote(folder):
        places = [folder / within for within in _REMOTE]
        found = [*_held((one for one in all_layouts() if one.NAME in READ_REMOTELY), places)]
        return found or [*_held(all_layouts(), places)]
    places = [place for within in _KNOWN if (place := folder / within).is_dir()]
    places += [place for place in sorted(folder.glob("global_step*")) if place.is_dir()]  # transformers with DeepSpeed
    found = [*_held(all_layouts(), places)]
    if not found:
        deeper = [place for place in _below(folder, _DEPTH) if any(one.holds(place) for one in all_layouts())]
        if len(deeper) > 1:
            raise UnreadableCheckpoint(
                f"{folder} holds weights in {' and '.join(str(place.relative_to(folder)) for place in deeper)}: name the one "
                f"to use, as STEP={deeper[0]}"
            )
        found = [*_held(all_layouts(), deeper)]
    if not any(layout is megatron for layout, _ in found):
        return found
    readable = [one for one in found if one[0].NAME in READ_REMOTELY]  # a model can be made of them
    return readable or [one for one in found if one[0] is not dcp]


def _held(layouts: Iterable[ModuleType], places: list[Path]) -> Iterable[tuple[ModuleType, Path]]:
    for layout in layouts:
        place = next((place for place in places if layout.holds(place)), None)
        if place is not None:
            yield layout, place


def _below(folder: Path, depth: int) -> list[Path]:
    """Folders in a step's folder that may hold its weights, and not those of something else."""
    found = []
    for child in sorted(folder.iterdir()) if depth else ():
        other = child.name.lower().startswith((*_OF_OTHERS, ".")) or STEP_NAME.match(child.name)
        if child.is_dir() and not child.is_symlink() and not other:
            found += [child, *_below(child, depth - 1)]
    return found


def _model_folder(folder: Path, place: Path) -> Path | None:
    """Where the configuration is: beside the weights, or in the places between them and the step's folder."""
    if remote.is_remote(folder):
        return place if place != folder else None
    between = [place, *(parent for parent in place.parents if parent.is_relative_to(folder))]
    for parent in between:
        for within in ("", "huggingface", ".hf_metadata", "hf"):
            if (parent / within / "config.json").is_file():
                return parent / within if parent / within != folder else None
    return place if place != folder else None


def _with_adapter(checkpoint: Checkpoint) -> Checkpoint:
    """verl's merger leaves the adapter of a LoRA run in `lora_adapter/`, below the frozen base: the model is both."""
    below = checkpoint.place / "lora_adapter" if checkpoint.place else None
    if below is None or checkpoint.layout != huggingface.NAME or remote.is_remote(below) or not adapter.holds(below):
        return checkpoint
    change = comparable(replace(adapter.open(below), path=checkpoint.path, place=below))
    note = f"{checkpoint.path} holds a frozen base with lora_adapter/ below it: the model is both together"
    both = on_base(change, checkpoint)
    return replace(both, layout=checkpoint.layout, notes=(*checkpoint.notes, *change.notes, note))


def _refuse_unmarked(folder: Path, place: Path) -> None:
    """Raise `UnreadableCheckpoint` where the trainer's mark of a complete checkpoint is not there yet."""
    if place == folder / "actor/model/huggingface" and not (folder / _MANIFEST).is_file():
        raise UnreadableCheckpoint(
            f"{folder} has no {_MANIFEST} yet, which verl writes last: still being written, or lost"
        )
    weights = folder.parent
    marks = weights.name in _STABLE_IN and not remote.is_remote(folder)  # each look at a remote one is a request
    if marks and not (folder / _STABLE).is_file() and any((other / _STABLE).is_file() for other in weights.iterdir()):
        raise UnreadableCheckpoint(f"{folder} has no {_STABLE} yet, which prime-rl writes last: still being written")
