"""One step's folder opened: where its weights lie in it, in which layout, and under which names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

from driftline.checkpoints.comparable import comparable, on_base
from driftline.checkpoints.git_lfs import refuse_pointer, refuse_pointers
from driftline.checkpoints.layouts import (
    PRECEDENCE,
    READ_REMOTELY,
    Checkpoint,
    adapter,
    huggingface,
    state_dict,
)
from driftline.checkpoints.leftovers import without_weights
from driftline.checkpoints.parameter_names import VALUE_HEAD, of_the_model
from driftline.checkpoints.places import layouts_in
from driftline.errors import UnreadableCheckpoint
from driftline.files import remote

_MANIFEST = "actor/ckpt_contents.json"  # verl's, of the newer layout
_STABLE, _STABLE_IN = "STABLE", ("weights", "broadcasts")  # prime-rl's


def open_checkpoint(folder: Path) -> Checkpoint:
    """The tensors of a step's folder, under the model's own names; an adapter without its base as the change that it is.

    Raises:
        UnreadableCheckpoint: no weights, weights in several places, incomplete or damaged.
    """
    try:
        with remote.faults(folder):
            found = layouts_in(folder)
            if not found:
                list(folder.iterdir())  # raises where a server fails: to look for a file there says no such file
                raise UnreadableCheckpoint(without_weights(folder))
            found = _with_model(found)
            layout, place = found[0]
            if remote.is_remote(folder) and layout.NAME not in READ_REMOTELY:
                raise UnreadableCheckpoint(
                    f"{folder} is in the layout {layout.NAME}, which is read from local files only; copy the run to a "
                    "local folder"
                )
            _refuse_unmarked(folder, place)
            try:
                opened = layout.open(place)
            except UnreadableCheckpoint:
                refuse_pointers(place)  # a better reason
                raise
            opened = replace(opened, path=folder, place=place, model_folder=_model_folder(folder, place))
            refuse_pointer(opened.model / "config.json")
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


def _with_model(found: list[tuple[ModuleType, Path]]) -> list[tuple[ModuleType, Path]]:
    """Without a state dict that holds nothing of the model, a value head beside an adapter, where there is another."""
    layout, place = found[0]
    if len(found) > 1 and layout is state_dict and not remote.is_remote(place):
        names = of_the_model(layout.open(place).tensors)
        if all(VALUE_HEAD.match(name) for name in names.values()):
            return found[1:]
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
