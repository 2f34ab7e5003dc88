"""`driftline advise`: what does the run say to do next?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from driftline.commands.options import Clock, Memory, Printing, Source

if TYPE_CHECKING:
    from driftline.forecast.advice import Advice


@dataclass(frozen=True, kw_only=True)
class Advise:
    """What the run says to do next, with the evidence: rate, batch, target, stop."""

    source: Source
    clock: Clock = "step"
    """what lines are drawn against: step, or summed learning rate"""
    memory: Memory = Memory()
    analysis: Annotated[Path | None, arg(metavar="DIR")] = None
    """a result of driftline analyze of these steps: nothing is read twice, and its momentum counts"""
    printing: Printing = Printing()


def run(request: Advise) -> Advice:
    """The record, which is printed and written nowhere."""
    from driftline.forecast.advice import advise
    from driftline.forecast.observations import observe
    from driftline.progress import progress_bar

    trajectory = request.source.open(needed=3, quiet=request.printing.json)
    with progress_bar(
        "reading weights", trajectory.nbytes, quiet=request.printing.quiet or request.printing.json
    ) as advance:
        observed = observe(
            trajectory,
            clock=request.clock,
            analysis=request.analysis,
            beta1=request.memory.beta1,
            ema=request.memory.ema,
            progress=advance,
        )
    return advise(trajectory, observed, clock=request.clock)


def show(record: Advice, request: Advise) -> None:
    from driftline import terminal

    terminal.advice(record)
