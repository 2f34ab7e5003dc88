"""`driftline inspect`: what a run holds, and what in it deserves a word."""

from __future__ import annotations

import os

import numpy as np

from driftline.checkpoints.configuration import learning_rates, rate_remedy
from driftline.checkpoints.layouts import Checkpoint
from driftline.checkpoints.trajectory import Trajectory
from driftline.files.record import UNSET, Record, UnsetType

FEWEST_CHECKPOINTS = 3


class InspectedCheckpoint(Record):
    """One checkpoint that is used.

    Attributes:
        dtypes, bytes: of what is read of it: of adapters the products' dtype, and the bytes of factors and base.
        source: the file or folder that is read, relative to `path`.
        notes: what its reader should know.
    """

    step: int
    path: str
    layout: str
    dtypes: list[str]
    bytes: int
    source: str | UnsetType = UNSET
    notes: list[str] | UnsetType = UNSET


class Inspection(Record):
    """What `driftline inspect --json` prints.

    Attributes:
        left_out: tensor -> reason; skipped: step -> reason; unused: folder -> why it is not taken as a checkpoint.
    """

    run: str
    layouts: list[str]
    steps: list[int]
    parameters: int
    tensors: int
    bytes: int
    checkpoints: list[InspectedCheckpoint]
    left_out: dict[str, str]
    skipped: dict[str, str]
    problems: list[str]
    unused: dict[str, str] | UnsetType = UNSET


def inspect(trajectory: Trajectory) -> Inspection:
    """Layout, steps, tensors, dtypes, sizes and problems, as one record."""
    checkpoints = [
        InspectedCheckpoint(
            step=step,
            path=str(checkpoint.path),
            layout=checkpoint.layout,
            dtypes=sorted({tensor.stored[i].dtype for tensor in trajectory}),
            bytes=sum(tensor.stored[i].read_bytes for tensor in trajectory),
            source=_source(checkpoint),
            notes=list(checkpoint.notes),
        )
        for i, (step, checkpoint) in enumerate(zip(trajectory.steps, trajectory.checkpoints, strict=True))
    ]
    return Inspection(
        run=trajectory.name,
        layouts=sorted({checkpoint.layout for checkpoint in trajectory.checkpoints}),
        steps=list(trajectory.steps),
        parameters=trajectory.parameters,
        tensors=len(trajectory.tensors),
        bytes=sum(checkpoint.bytes for checkpoint in checkpoints),
        checkpoints=checkpoints,
        left_out=trajectory.left_out,
        skipped={str(step): reason for step, reason in trajectory.skipped.items()},
        problems=_problems(trajectory, [checkpoint.dtypes for checkpoint in checkpoints]),
        unused=trajectory.unused,
    )


def _source(checkpoint: Checkpoint) -> str:
    """The file that is read of a checkpoint, or the folder in it that holds them all; `.` is its own folder."""
    root = str(checkpoint.path).rstrip("/") + "/"
    files = {str(file) for info in checkpoint.tensors.values() for file in info.files}
    within = sorted(file.removeprefix(root) for file in files if file.startswith(root))  # else of a base
    return within[0] if len(within) == 1 else os.path.commonpath(within) or "." if within else "."


def _problems(trajectory: Trajectory, dtypes: list[list[str]]) -> list[str]:
    problems = []
    if len(trajectory.steps) < FEWEST_CHECKPOINTS:
        problems.append(f"{len(trajectory.steps)} usable checkpoints: a line needs at least {FEWEST_CHECKPOINTS}")
    if any(names != dtypes[-1] for names in dtypes):
        problems.append("dtypes differ between checkpoints: the narrower ones' rounding enters the first changes")
    if any(name.startswith("F8") for names in dtypes for name in names):
        problems.append("fp8 values without scales are measured as stored")
    problems += trajectory.remarks
    gaps = np.diff(trajectory.steps)
    if gaps.size and gaps.min() != gaps.max():
        problems.append(f"uneven spacing, {gaps.min()} to {gaps.max()} steps: lines are fitted on the real steps")
    if trajectory.regrounded:
        problems.append(trajectory.regrounded.sentence)
    rates = [] if trajectory.regrounded else list(learning_rates(trajectory).values())
    if rates and min(rates) < 0.999 * max(rates):
        problems.append(
            f"the learning rate is not constant ({min(rates):.3g} to {max(rates):.3g}){rate_remedy(trajectory)}"
        )
    last = trajectory.checkpoints[-1].path
    if str(last).startswith(f"{trajectory.name}@"):
        problems.append(
            f"{trajectory.name}: other branches than those of steps, main among them, are not used; name one as "
            f"STEP={trajectory.name}@main to use it"
        )
        return problems
    root = last.parent
    if (root / "model.safetensors").is_file():
        problems.append(f"{root} itself holds a model without a step: not used; name it as STEP=PATH to use it")
    return problems
