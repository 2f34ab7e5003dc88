"""Folders of steps without weights: emptied by the trainer's rotation, still being written, or with weights elsewhere."""

from __future__ import annotations

import os
import re
from pathlib import Path

from driftline.checkpoints.families import is_usable
from driftline.checkpoints.folder_names import step_name
from driftline.files import remote

# What trainers write after the weights, and leave when they delete those: verl's and SkyRL's data loader and state,
# transformers' and accelerate's optimizer and log; the critic, which has a number to keep of its own.
_WRITTEN_AFTER = re.compile(r"^(?:data\.pt|dataloader.*|trainer_state\.(?:pt|json)|optimizer.*|optim_.*|critic)$")
_BESIDE = re.compile(
    r"^(?:rng_state.*|random_states.*|scheduler.*|scaler.*|sampler.*|training_args\.bin|extra_state_.*|train_info.*"
    r"|.*\.(?:json|yaml|yml|txt|md|jinja|model|py|tiktoken|log))$"
)
_WEIGHTS = re.compile(r"\.(?:safetensors|bin|pt|pth|distcp|gguf|npz)$")
_MOST_FILES = 10_000
_DEEPEST = 4  # folders below a checkpoint's own


def rotated(folder: Path) -> str | None:
    """The reason why a step is not used whose weights the trainer has deleted; None of any other folder.

    Only what trainers write after the weights tells: without it, a folder may still be being written.
    """
    if remote.is_remote(folder):  # where each look is a request
        return None
    files = _files(folder)
    left = sorted(file for file in files if _is_left(file))
    if not left or not all(_is_left(file) or _BESIDE.match(Path(file).name) for file in files) or is_usable(folder):
        return None
    return (
        f"the weights have been deleted, most likely by the trainer, which keeps those of some checkpoints only ({_some(left)} left): "
        "raise that number before the next run"
    )


def without_weights(folder: Path) -> str:
    """The sentence about a folder in which no layout finds weights."""
    if not remote.is_remote(folder):
        files = [file for file in _files(folder) if _WEIGHTS.search(file) and not _is_left(file)]
        for below in sorted({str(Path(file).parent) for file in files if not step_name(Path(file).parts[0])}):
            place = folder / below
            if place != folder and is_usable(place):
                return f"{folder} holds weights in {below}/ only, where none are looked for; give that as STEP=PATH to use it"
    return f"{folder} holds no weights yet: still being written, or not a model"


def _some(files: list[str]) -> str:
    shown = files[:3] + (["more"] if len(files) > 3 else [])
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown) + (
        " is" if len(files) == 1 else " are"
    )


def _is_left(file: str) -> bool:
    """A file, or one in a folder that is named so, such as `optimizer/`."""
    return any(_WRITTEN_AFTER.match(part) for part in Path(file).parts)


def _files(folder: Path) -> list[str]:
    """The files in a folder and those below, relative to it; empty where it cannot be listed."""
    found: list[str] = []
    for base, folders, names in os.walk(folder):
        below = os.path.relpath(base, folder)
        found += [os.path.normpath(os.path.join(below, name)) for name in names]
        if len(found) > _MOST_FILES or len(Path(below).parts) >= _DEEPEST:
            folders.clear()
    return found
