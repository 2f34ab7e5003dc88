"""`driftline backtest`: how far ahead can the run be forecast, and by which method?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from driftline.commands.options import Clock, Memory, Output, Printing, Quiet, Source
from driftline.commands.requests import Next, beside, command_line, spelled_out

if TYPE_CHECKING:
    from driftline.forecast.record import BacktestRecord


@dataclass(frozen=True, kw_only=True)
class Backtest:
    """How well each method would have forecast the run's own later checkpoints, and how far ahead to trust it."""

    source: Source
    output: Output
    clock: Clock = "step"
    """what lines are drawn against: step, or summed learning rate"""
    memory: Memory = Memory()
    rank: int = 1
    """directions of relex"""
    next_: Annotated[bool, arg(name="next")] = False
    """test next too, which trains networks at every cutoff"""
    analysis: Annotated[Path | None, arg(metavar="DIR")] = None
    """a result of driftline analyze of these steps: nothing is read twice, and its momentum counts"""
    printing: Printing = Printing()


def run(request: Backtest) -> BacktestRecord:
    """Test every method, and write `backtest.json`, `groups.parquet` and `report.html`."""
    from driftline.files.output import output_folder, refuse_occupied
    from driftline.files.record import UNSET, write_record
    from driftline.forecast.advice import advise
    from driftline.forecast.ahead import ahead_of
    from driftline.forecast.backtest import measure, write_groups
    from driftline.forecast.moves import try_next
    from driftline.forecast.observations import observe
    from driftline.forecast.record import MARK
    from driftline.linearity.learning_rate import changed
    from driftline.progress import progress_bar
    from driftline.report import backtest as page

    out, overwrite = request.output.out, request.output.overwrite
    refuse_occupied(out, overwrite=overwrite, mark=MARK)
    trajectory = request.source.open()
    with output_folder(out, overwrite=overwrite, mark=MARK) as folder:
        with progress_bar("reading weights", trajectory.nbytes, quiet=request.printing.quiet) as advance:
            observed = observe(
                trajectory,
                clock=request.clock,
                analysis=request.analysis,
                beta1=request.memory.beta1,
                ema=request.memory.ema,
                progress=advance,
            )
        note = trajectory.regrounded.sentence if trajectory.regrounded else ""
        beside = {}
        if request.next_:
            bars = partial(progress_bar, quiet=request.printing.quiet)
            beside = {"next": try_next(trajectory, observed, bars)}
        record, tests = measure(
            observed,
            run=trajectory.name,
            clock=request.clock,
            rank=request.rank,
            note=note,
            ahead=ahead_of(trajectory, request.clock),
            learning_rate=changed(trajectory) if request.clock == "step" else UNSET,
            beside=beside,
        )
        write_groups(folder / "groups.parquet", tests, observed.steps)
        write_record(folder / MARK, record)
        advised = advise(trajectory, observed, clock=request.clock, backtest=record).lines
        steps = [*((f"{line.do} {line.why}", []) for line in advised), *spelled_out(next_steps(record, request))]
        page.write(folder, record, command=command_line(request), next_steps=steps)
    return record


def show(record: BacktestRecord, request: Backtest) -> None:
    from driftline import terminal

    terminal.backtest(record)
    terminal.report(request.output.out)


def next_steps(record: BacktestRecord, request: Backtest) -> list[Next]:
    """The model as far ahead as was recommended; or to train on, where the learning-rate schedule has not ended."""
    from driftline.commands.extrapolate import Extrapolate, ModelOutput
    from driftline.commands.options import Run
    from driftline.commands.watch import Watch
    from driftline.files.record import UNSET

    source, out = request.source, request.output.out
    if record.recommended_horizon == 0 and record.schedule_end is not UNSET and record.schedule_end <= record.steps[-1]:
        return []
    if not record.recommended_horizon > 0:
        why = "No forecast of this run is to be trusted yet. Train on, and ask again with the checkpoints to come."
        followed = Run(run=source.run, base=source.base)
        return [Next(why, Watch(source=followed, out=beside(out, "-watch"), memory=_memory(record), printing=Quiet()))]
    target = str(int(record.steps[-1] + record.recommended_horizon))
    why = "Write the model that far ahead; then score it on your task with driftline evaluate."
    asked = Extrapolate(
        source=source,
        output=ModelOutput(out=beside(out, f"-step-{target}")),
        to=target,
        method=record.best_method,
        rank=request.rank,
        clock=request.clock,
        memory=request.memory,
        analysis=request.analysis,
    )
    return [Next(why, asked)]


def _memory(record: BacktestRecord) -> Memory:
    """What was said of it, here or to the analysis, for a command that takes no analysis."""
    if not record.optimizer:
        return Memory()
    said = record.optimizer.adam_beta1_from.startswith("--beta1")
    return Memory(beta1=record.optimizer.adam_beta1 if said else None, ema=record.optimizer.ema or None)
