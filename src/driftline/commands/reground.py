"""`driftline reground`: train, project, and again, around any trainer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Suppress, arg

from driftline.commands.extrapolate import KEPT, Patterns, kept
from driftline.commands.options import Quiet, StoredDtype

if TYPE_CHECKING:
    from driftline.checkpoints.jumps import Jumps


@dataclass(frozen=True, kw_only=True)
class Reground:
    """Train m steps, project n, and again, around any trainer: end with -- CMD, in which {model}, {steps}, {output} are filled."""

    model: Annotated[Path, arg(metavar="MODEL")]
    """folder of the model to start from"""
    m: int
    """steps that the trainer makes in each cycle"""
    n: int
    """steps that are projected after them"""
    cycles: int
    """how often"""
    out: Annotated[Path, arg(metavar="DIR")]
    """folder to write; a second call goes on with what is not finished"""
    preset: Literal["verl"] | None = None
    """arguments that this trainer needs are added to the command"""
    keep: Patterns = KEPT
    """tensors copied from the trained checkpoint; none for none"""
    dtype: StoredDtype = "same"
    """of projected models"""
    overwrite: bool = False
    """replace what driftline wrote there before"""
    printing: Quiet = Quiet()
    command: Suppress[tuple[str, ...]] = field(default=(), metadata={"rest": True})
    """the trainer's command, what follows `--`"""


def run(request: Reground) -> Jumps:
    """Make the cycles that are missing; the rows of `jumps.json`."""
    from driftline.training.driver import RegroundingPlan, reground

    cycles = RegroundingPlan(
        model=request.model,
        m=request.m,
        n=request.n,
        cycles=request.cycles,
        command=request.command,
        preset=request.preset,
        keep=kept(request.keep),
        dtype=request.dtype,
    )
    say = (lambda sentence: None) if request.printing.quiet else print
    return reground(cycles, request.out, overwrite=request.overwrite, say=say)


def show(jumps: Jumps, request: Reground) -> None:
    print(f"last model: {request.out / 'final'}\njumps: {request.out / 'jumps.json'}")
