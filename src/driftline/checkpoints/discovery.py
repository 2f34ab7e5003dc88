"""Which folders of a run are checkpoints, and of which training step.

Steps come from folder names, as the trainers write them, or from explicit `STEP=PATH` pairs. What is seen and not
taken has its reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import NoReturn

from driftline.checkpoints.families import Chosen, chosen, holds_weights
from driftline.checkpoints.folder_names import (
    BARE,
    StepName,
    looks_like_one,
    may_look_like_one,
    step_name,
    why_not,
)
from driftline.checkpoints.leftovers import rotated
from driftline.checkpoints.markers import after_marker
from driftline.checkpoints.reasons import by_reason, grouped
from driftline.errors import InputError
from driftline.files import remote

STEP, STRIDE = r"\d{1,12}", r"[1-9]\d{0,11}"
STEP_PAIR = re.compile(rf"^({STEP})=(.+)$", re.DOTALL)
CHOICE = rf"(?:{STEP})?:(?:{STEP})?(?::{STRIDE})?|{STEP}(?:,{STEP})*"  # of steps
LOOKED_FOR = "checkpoint-N, global_step_N, step_N, step-N, iter_N, ckpt-N, epoch_N or N alone"
_WITHIN = ("_actor", "", "checkpoints", "checkpoint", "weights")  # full precision before rounded copies


@dataclass(frozen=True)
class Found:
    """What a run's folders say.

    Attributes:
        steps: step -> folder, in step order.
        unused: folder -> why it is not taken as a checkpoint.
        skipped: step -> why a checkpoint is not used.
        notes: sentences about the run as a whole.
    """

    steps: dict[int, Path] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)
    skipped: dict[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def find_steps(run: Sequence[str | Path], *, like: Path | None = None) -> Found:
    """The checkpoints of one run folder, of several `STEP=PATH` pairs, or of both: there the pairs come first.

    Args:
        like: a checkpoint that was read before, there still or not: where there is a choice, those of its kind are taken.

    Raises:
        InputError: nothing there, not a folder, no checkpoints in it, or two folders of one step.
    """
    arguments = [str(argument) for argument in run]
    if not arguments:
        raise InputError("no run was named: give a folder that holds checkpoints, or STEP=PATH pairs")
    pairs = [pair for argument in arguments if (pair := STEP_PAIR.match(argument))]
    folders = [argument for argument in arguments if not STEP_PAIR.match(argument)]
    if len(folders) > 1:
        odd = remote.redacted(folders[1])
        raise InputError(f"{odd!r} is not STEP=PATH: give one run folder, and what lies elsewhere as STEP=PATH pairs")
    given: dict[int, Path] = {}
    for step, path in ((int(pair[1]), folder_of(pair[2])) for pair in pairs):
        _must_be_folder(path)
        if step in given:
            raise InputError(f"{given[step]} and {path} both hold step {step}: name the one to use as {step}=PATH")
        given[step] = path
    found = _in_run(folders[0], given, like) if folders else Found()
    steps = dict(sorted({**found.steps, **given}.items()))
    if not steps:
        raise InputError(
            f"{remote.redacted(folders[0])}: none of the {len(found.skipped)} checkpoints can be read "
            f"({'; '.join(grouped(found.skipped))}): name a run with complete ones"
        )
    return replace(found, steps=steps)


def run_folder(run: Sequence[str | Path]) -> str | None:
    """The argument that is a run's folder, beside `STEP=PATH` pairs."""
    return next((str(argument) for argument in run if not STEP_PAIR.match(str(argument))), None)


def spelled(run: Sequence[str | Path]) -> str:
    """The run in one line: its folder, then the `STEP=PATH` pairs."""
    return ", ".join(sorted(map(str, run), key=lambda argument: STEP_PAIR.match(argument) is not None))


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


def _in_run(argument: str, given: Mapping[int, Path], like: Path | None) -> Found:
    branches = remote.branches(argument)
    named = [(name, path) for key, path in branches.items() if (name := step_name(key)) and name.family != BARE]
    if named:
        picked = chosen(argument, named, given)
        return Found(picked.steps, picked.unused, notes=picked.notes)
    folder = folder_of(argument)
    _must_be_folder(folder)
    kind = step_name(like.name) if like else None
    found = [(place, chosen(place, members, given, kind)) for place, members in places(folder)]
    if not found:
        _refuse_empty(folder)
    if len(found) > 1:
        found.sort(key=lambda one: (like is None or one[0] != like.parent, -one[1].usable))
    (place, taken), *others = found
    after, complaints = ({}, []) if remote.is_remote(place) else after_marker(place, taken.family, taken.steps)
    gone = {step: reason for step, path in taken.steps.items() if step not in given and (reason := rotated(path))}
    skipped = {step: reason for step, reason in sorted({**after, **gone}.items()) if step not in given}
    steps = {step: path for step, path in taken.steps.items() if step not in skipped}
    used = {_resolved(path) for path in [*steps.values(), *given.values()]}
    replaced = {str(steps[step]): f"step {step} is given as {given[step]}" for step in steps if step in given}
    unused = taken.unused | replaced | _others(place, used)
    unused = {path: reason for path, reason in unused.items() if path not in map(str, given.values())}
    notes = (*taken.notes, *_which_place(place, taken, others), *complaints)
    return Found(steps, unused, skipped, notes)


def places(folder: Path) -> list[tuple[Path, list[tuple[StepName, Path]]]]:
    """Where a run's checkpoints are: in it, or where OpenRLHF, prime-rl and torchtitan put them; full precision first."""
    if remote.is_remote(folder):  # where each look is a request
        return [(folder, members)] if (members := _members(folder)) else []
    there = [place for place in (folder / name for name in _WITHIN) if place.is_dir()]
    return [(place, members) for place in there if (members := _members(place))]


def _members(place: Path) -> list[tuple[StepName, Path]]:
    """The folders whose names say a step; numbers alone only where one of them holds weights."""
    named = [(name, child) for child in _children(place) if (name := step_name(child.name))]
    bare = [child for name, child in named if name.family == BARE]
    if not any(map(holds_weights, bare)):
        named = [(name, child) for name, child in named if name.family != BARE]
    return named


def _which_place(place: Path, taken: Chosen, others: Sequence[tuple[Path, Chosen]]) -> list[str]:
    """Which of several places in a run is read, why, and what reads another."""
    if not others:
        return []
    counts = " and ".join(f"{where} ({len(there.steps)} steps)" for where, there in [(place, taken), *others])
    usable, most = taken.usable, max(there.usable for _, there in others)
    if usable == most:
        why = "as full precision comes first"
    else:
        why = "which has more of them" if usable > most else "as it was before"
    instead = []
    for where, there in others:
        if place.is_relative_to(where):
            pairs = " ".join(f"{step}={path}" for step, path in list(there.steps.items())[:2])
            instead.append(f"STEP=PATH pairs, such as {pairs},")
        else:
            instead.append(str(where))
    return [
        f"checkpoints are in {counts}: {place} is read, {why}; give {' or '.join(instead)} to read the others instead"
    ]


def _others(place: Path, used: set[str]) -> dict[str, str]:
    """Folders beside the checkpoints that look like checkpoints, and why they are none."""
    found: dict[str, str] = {}
    for child in _children(place):
        if step_name(child.name) is not None or child.name in _WITHIN or child.name.startswith("."):
            continue
        here = not remote.is_remote(child)
        alike, weights = looks_like_one(child.name), here and holds_weights(child)
        if here and child.is_symlink() and _resolved(child) in used:
            found[str(child)] = f"a link to {Path(_resolved(child)).name}, which is used"
        elif here and not (alike and weights) and _members(child):
            found[str(child)] = "it holds checkpoints itself; give it as RUN to read those instead"
        elif alike or weights:
            found[str(child)] = why_not(child.name)
    return found


def _resolved(path: Path) -> str:
    return str(path) if remote.is_remote(path) else str(path.resolve())


def _refuse_empty(folder: Path) -> NoReturn:
    """Say why a folder holds no checkpoints."""
    name = step_name(folder.resolve().name)
    if name is not None and (name.family != BARE or holds_weights(folder)):
        raise InputError(f"{folder} is one checkpoint, not a run: give its parent folder {folder.resolve().parent}")
    children = _children(folder)
    deeper = [child for child in children if places(child)]
    if deeper:
        raise InputError(f"{folder} holds no checkpoints itself, but {deeper[0]} does: give that folder")
    there = [child.name + "/" * child.is_dir() for child in sorted(folder.iterdir())]
    listing = ", ".join(there[:8]) + (", ..." if len(there) > 8 else "") if there else "nothing"
    alike = [child.name for child in children if may_look_like_one(child.name)]
    reasons = "; ".join(by_reason({child: why_not(child).partition(";")[0] for child in alike}))
    not_taken = f" ({reasons})" if reasons else ""
    raise InputError(
        f"{folder} holds no checkpoints: looked for folders named {LOOKED_FOR}; there is {listing}{not_taken}: give their "
        "folder, or STEP=PATH pairs"
    )


def choose_steps(available: Sequence[int], chosen: str | None, *, flag: str = "--steps") -> list[int]:
    """The steps that `chosen` selects: `0:1000:100` (both ends included) or a list `0,100,500`.

    Raises:
        InputError: not of that form, a listed step that is not there, or nothing selected.
    """
    if chosen is None:
        return list(available)
    if not re.fullmatch(CHOICE, chosen, re.ASCII):
        raise InputError(
            f"{flag} {chosen!r} is neither FIRST:LAST:STRIDE nor a list such as 0,100,200: give one of these"
        )
    if ":" in chosen:
        first, last, stride = (
            int(part) if part else whole
            for part, whole in zip_longest(chosen.split(":"), [available[0], available[-1], 1])
        )
        steps = [step for step in available if first <= step <= last and (step - first) % stride == 0]
    else:
        steps = sorted({int(step) for step in chosen.split(",")})
        for step in steps:
            if step not in available:
                raise InputError(f"step {step} is not in the run: choose among the steps {_listed(available)}")
    if not steps:
        raise InputError(f"{flag} {chosen} selects no checkpoint: choose among the steps {_listed(available)}")
    return steps


def _listed(steps: Sequence[int]) -> str:
    shown = [str(step) for step in steps]
    return ", ".join(shown if len(shown) <= 12 else [*shown[:6], "...", *shown[-3:]])
