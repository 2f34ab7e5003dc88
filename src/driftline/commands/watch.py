"""`driftline watch`: the same of a run that is still being written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from driftline.commands.options import Memory, Quiet, Run

if TYPE_CHECKING:
    from driftline.linearity.summary import WeightsSummary


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Follow a run being written: a line and a new summary with every checkpoint, and warnings; Ctrl-C stops."""

    source: Run
    out: Annotated[Path, arg(metavar="DIR")]
    """folder to write; a second call continues it"""
    interval: float = 30.0
    """seconds between looks at the run"""
    settle: float = 10.0
    """seconds for which a checkpoint must not have changed"""
    once: bool = False
    """take what is there, then stop"""
    memory: Memory = Memory()
    printing: Quiet = Quiet()


def run(request: Watch) -> WeightsSummary | None:
    """Follow the run, keeping `summary.json` up to date; None below three checkpoints."""
    from driftline import terminal
    from driftline.watching.request import Following
    from driftline.watching.watch import watch

    source = request.source
    following = Following(
        source.run,
        steps=source.steps,
        base=source.base,
        interval=request.interval,
        settle=request.settle,
        once=request.once,
        beta1=request.memory.beta1,
        ema=request.memory.ema,
    )
    return watch(following, request.out, show=terminal.watched(quiet=request.printing.quiet), say=terminal.aside)


def show(summary: WeightsSummary, request: Watch) -> None:
    print(summary.verdict.sentence)
