"""`driftline analyze`: how straight is the run, and does it mean anything?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from driftline.commands.options import Clock, Filter, Memory, Output, Printing, Source, Where
from driftline.commands.requests import Next, beside, command_line, spelled_out

if TYPE_CHECKING:
    from driftline.linearity.summary import WeightsSummary

MARK = "summary.json"


@dataclass(frozen=True, kw_only=True)
class Analyze:
    """How straight is the run, and does it mean anything: one pass over all weights."""

    source: Source
    output: Output
    filter: Filter = "none"
    """paper: only weights whose range exceeds 1e-4, with 4 or more values"""
    clock: Clock = "step"
    """what lines are drawn against: step, or summed learning rate"""
    memory: Memory = Memory()
    where: Where = Where()
    printing: Printing = Printing()


def run(request: Analyze) -> WeightsSummary:
    """Measure, and write `summary.json`, `tensors.parquet` and `report.html`."""
    from driftline.files.output import output_folder, refuse_occupied
    from driftline.files.record import write_record
    from driftline.linearity.analysis import analyze
    from driftline.progress import progress_bar
    from driftline.report import analysis

    out, overwrite = request.output.out, request.output.overwrite
    refuse_occupied(out, overwrite=overwrite, mark=MARK)
    trajectory = request.source.open(needed=3)
    with request.where.open() as engine, output_folder(out, overwrite=overwrite, mark=MARK) as folder:
        with progress_bar("reading weights", trajectory.nbytes, quiet=request.printing.quiet) as advance:
            summary = analyze(
                trajectory,
                folder,
                filter=request.filter,
                clock=request.clock,
                beta1=request.memory.beta1,
                ema=request.memory.ema,
                engine=engine,
                progress=advance,
            )
        write_record(folder / MARK, summary)
        steps = spelled_out(next_steps(summary, request))
        analysis.write(folder, summary, command=command_line(request), next_steps=steps)
    return summary


def show(summary: WeightsSummary, request: Analyze) -> None:
    from driftline import terminal

    terminal.analysis(summary)
    terminal.report(request.output.out)


def next_steps(summary: WeightsSummary, request: Analyze) -> list[Next]:
    """Back-tests of the same run and advice on it, from what was read already."""
    from driftline.commands.advise import Advise
    from driftline.commands.backtest import Backtest

    if summary.verdict.linear:
        why = (
            "See how far ahead this run can be forecast, tested on its own later checkpoints; no weight is read again."
        )
    else:
        why = "A forecast has little to stand on here. This tells whether any beats the last checkpoint, on the run's own later ones."
    out = request.output.out
    asked = Backtest(
        source=request.source,
        output=Output(out=beside(out, "-backtest")),
        clock=request.clock,
        memory=request.memory,
        analysis=out,
    )
    advice = Advise(source=request.source, clock=request.clock, memory=request.memory, analysis=out)
    return [Next(why, asked), Next("See what the run says to do: rate, batch, target, stop.", advice)]
