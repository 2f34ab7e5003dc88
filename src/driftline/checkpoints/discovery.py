"""Which folders of a run are checkpoints, and of which training step.

Steps come from folder names, as the trainers write them, or from explicit `STEP=PATH` pairs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from driftline.errors import InputError
from driftline.files import remote

STEP_NAME = re.compile(r"^(?:checkpoint|global_steps?|step|iter|epoch)[-_]?0*(\d{1,12})(?:_hf)?$")
STEP_PAIR = re.compile(r"^(\d{1,12})=(.+)$")
LOOKED_FOR = "checkpoint-N, global_step_N, step_N, step-N, iter_N"


def find_steps(run: Sequence[str | Path]) -> dict[int, Path]:
    """Step -> folder, in step order, of one run folder or of several `STEP=PATH` pairs.

    Raises:
        InputError: nothing there, not a folder, no checkpoints in it, or two folders of one step.
    """
    arguments = [str(argument) for argument in run]
    if not arguments:
        raise InputError("no run was named: give a folder that holds checkpoints, or STEP=PATH pairs")
    pairs = [STEP_PAIR.match(argument) for argument in arguments]
    if all(pairs):
        found = [(int(pair[1]), folder_of(pair[2])) for pair in pairs if pair]
        for _, path in found:
            _must_be_folder(path)
    elif len(arguments) == 1:
        found = _named(remote.branches(arguments[0]).items()) or _steps_in(folder_of(arguments[0]))
    else:
        odd = remote.redacted(arguments[pairs.index(None)])
        raise InputError(f"{odd!r} is not STEP=PATH: give either one run folder or only STEP=PATH pairs")
    steps: dict[int, Path] = {}
    for step, path in sorted(found):
        if step in steps:
            raise InputError(f"{steps[step]} and {path} both hold step {step}: name the one to use as {step}=PATH")
        steps[step] = path
    return steps


def folder_of(argument: str | Path) -> Path:
    """The folder that is meant, here or at a remote address."""
    return remote.folder(str(argument)) if remote.is_address(argument) else Path(argument)


def _likely(path: Path) -> str:
    return "the address, the network and the credentials" if remote.is_remote(path) else "its permissions"


def _must_be_folder(path: Path) -> None:
    try:
        with remote.faults(path):
            exists, is_folder = path.exists(), path.is_dir()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check {_likely(path)}") from error
    if not exists:
        raise InputError(f"{path} does not exist: give the folder that holds the checkpoints")
    if not is_folder:
        raise InputError(f"{path} is a file, not a folder of checkpoints: give the folder that holds them")


def _children(folder: Path) -> list[Path]:
    try:
        with remote.faults(folder):
            return sorted(child for child in folder.iterdir() if child.is_dir())
    except OSError as error:
        raise InputError(f"{folder} cannot be listed ({error.strerror}): check {_likely(folder)}") from error


def _named_steps(folder: Path) -> list[tuple[int, Path]]:
    return _named((child.name, child) for child in _children(folder))


def _named(folders: Iterable[tuple[str, Path]]) -> list[tuple[int, Path]]:
    matches = [(STEP_NAME.match(name), folder) for name, folder in folders]
    return [(int(match[1]), folder) for match, folder in matches if match]


def _steps_in(folder: Path) -> list[tuple[int, Path]]:
    _must_be_folder(folder)
    found = places(folder)
    if found:
        return _named_steps(found[0])
    if STEP_NAME.match(folder.resolve().name):
        raise InputError(f"{folder} is one checkpoint, not a run: give its parent folder {folder.resolve().parent}")
    deeper = [child for child in _children(folder) if _named_steps(child)]
    if deeper:
        raise InputError(f"{folder} holds no checkpoints itself, but {deeper[0]} does: give that folder")
    there = [child.name + "/" * child.is_dir() for child in sorted(folder.iterdir())]
    listing = ", ".join(there[:8]) + (", ..." if len(there) > 8 else "") if there else "nothing"
    raise InputError(
        f"{folder} holds no checkpoints: looked for folders named {LOOKED_FOR}; there is {listing}: give their folder, or STEP=PATH pairs"
    )


_WITHIN = ("_actor", "", "checkpoints", "checkpoint", "weights")  # full precision before rounded copies


def places(folder: Path) -> list[Path]:
    """Where a run's checkpoints are: in it, or where OpenRLHF, prime-rl and torchtitan put them; the one to read first."""
    if remote.is_remote(folder):  # where each look is a request
        return [folder] if _named_steps(folder) else []
    return [place for place in (folder / name for name in _WITHIN) if place.is_dir() and _named_steps(place)]


def choice(folder: Path) -> str | None:
    """The sentence that says which of several places in a run is read, and why."""
    found = places(folder) if folder.is_dir() else []
    if len(found) < 2:
        return None
    counts = " and ".join(f"{place} ({len(_named_steps(place))} steps)" for place in found)
    return f"checkpoints are in {counts}: {found[0]} is read, as full precision comes first; name another to read that"


def choose_steps(available: Sequence[int], chosen: str | None) -> list[int]:
    """The steps that `chosen` selects: `0:1000:100` (both ends included) or a list `0,100,500`.

    Raises:
        InputError: not of that form, a listed step that is not there, or nothing selected.
    """
    if chosen is None:
        return list(available)
    if match := re.fullmatch(r"(\d*):(\d*)(?::([1-9]\d*))?", chosen):
        first = int(match[1] or available[0])
        last = int(match[2] or available[-1])
        stride = int(match[3] or 1)
        steps = [step for step in available if first <= step <= last and (step - first) % stride == 0]
    elif re.fullmatch(r"\d+(,\d+)*", chosen):
        steps = sorted({int(step) for step in chosen.split(",")})
        for step in steps:
            if step not in available:
                raise InputError(f"step {step} is not in the run: choose among the steps {_listed(available)}")
    else:
        raise InputError(
            f"--steps {chosen!r} is neither FIRST:LAST:STRIDE nor a list such as 0,100,200: give one of these"
        )
    if not steps:
        raise InputError(f"--steps {chosen} selects no checkpoint: choose among the steps {_listed(available)}")
    return steps


def _listed(steps: Sequence[int]) -> str:
    shown = [str(step) for step in steps]
    return ", ".join(shown if len(shown) <= 12 else [*shown[:6], "...", *shown[-3:]])
