"""`driftline train`: the lab."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from driftline.commands.options import Output, Quiet
from driftline.commands.requests import Next, beside, command_line
from driftline.lab.settings import LabRun, read_config

if TYPE_CHECKING:
    from driftline.lab.record import ScoredStep


@dataclass(frozen=True, kw_only=True)
class Train:
    """The lab: a real run of a small model on this machine, with TRL; also under accelerate launch."""

    output: Output
    settings: LabRun = LabRun()
    config: Annotated[Path | None, arg(metavar="FILE")] = None
    """TOML file of these settings; flags go before it"""
    printing: Quiet = Quiet()


def prepare(words: list[str]) -> list[str]:
    """The settings of `--config FILE`, spelled out before the flags given with it, which so have the last word."""
    files = [after for word, after in itertools.pairwise(words) if word == "--config"]
    files += [word.removeprefix("--config=") for word in words if word.startswith("--config=")]
    if not files:
        return words
    found = read_config(Path(files[-1]))
    return [*(f"--{name.replace('_', '-')}={value}" for name, value in found.items()), *words]


def run(request: Train) -> list[ScoredStep] | None:
    """Train; the rows of `accuracy.jsonl`, or None where another process writes them."""
    from driftline import terminal
    from driftline.lab.run import train

    rows = train(
        request.output.out,
        request.settings,
        overwrite=request.output.overwrite,
        on_step=terminal.training_step(request.settings.steps, quiet=request.printing.quiet),
        say=terminal.while_working(quiet=request.printing.quiet),
    )
    return rows or None


def show(rows: list[ScoredStep], request: Train) -> None:
    from driftline import terminal

    terminal.accuracy(rows)
    print(f"\nrun: {request.output.out}")
    for step in next_steps(rows, request):
        print(f"next: {command_line(step.request)}")


def next_steps(rows: list[ScoredStep], request: Train) -> list[Next]:
    """Measure the run."""
    from driftline.commands.analyze import Analyze
    from driftline.commands.options import Source

    out = request.output.out
    asked = Analyze(source=Source(run=(str(out),)), output=Output(out=beside(out, "-analysis")))
    return [Next("See how straight it is.", asked)]
