"""`driftline logprobs`: do log-probs run straight too?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from driftline.commands.options import BackendChoice, Clock, Memory, ModelDtype, Output, Printing, Source, Where
from driftline.commands.requests import Next, beside, command_line, spelled_out

if TYPE_CHECKING:
    from driftline.linearity.summary import LogprobsSummary

MARK = "summary.json"


@dataclass(frozen=True, kw_only=True)
class Logprobs:
    """Teacher-forced log-probs of fixed responses at every checkpoint, and how straight they run."""

    source: Source
    rollouts: Annotated[Path, arg(metavar="FILE")]
    """JSON lines: prompt or messages with response, or prompt_ids and response_ids"""
    output: Output
    clock: Clock = "step"
    """what lines are drawn against: step, or summed learning rate"""
    memory: Memory = Memory()
    dtype: ModelDtype = "auto"
    """to run models in; auto: as saved"""
    choice: BackendChoice = BackendChoice()
    where: Where = Where()
    printing: Printing = Printing()


def run(request: Logprobs) -> LogprobsSummary:
    """Measure, and write `summary.json`, `tokens.parquet` and `report.html`."""
    from driftline.decoding.backends.opening import scorer
    from driftline.files.output import output_folder, refuse_occupied
    from driftline.files.record import write_record
    from driftline.outputs import logprobs as measure
    from driftline.progress import counter
    from driftline.report import outputs as page

    out, overwrite = request.output.out, request.output.overwrite
    backend = request.choice.chosen()
    refuse_occupied(out, overwrite=overwrite, mark=MARK)
    trajectory = request.source.open(needed=3)
    with (
        request.where.open() as engine,
        output_folder(out, overwrite=overwrite, mark=MARK) as folder,
        counter(quiet=request.printing.quiet) as progress,
    ):
        summary = measure.logprobs(
            trajectory,
            request.rollouts,
            folder,
            out,
            clock=request.clock,
            beta1=request.memory.beta1,
            ema=request.memory.ema,
            dtype=request.dtype,
            score=scorer(backend, request.dtype),
            engine=engine,
            progress=progress,
        )
        write_record(folder / MARK, summary)
        steps = spelled_out(next_steps(summary, request))
        page.write_logprobs(folder, summary, command=command_line(request), next_steps=steps)
    return summary


def show(summary: LogprobsSummary, request: Logprobs) -> None:
    from driftline import terminal

    terminal.analysis(summary)
    terminal.report(request.output.out)


def next_steps(summary: LogprobsSummary, request: Logprobs) -> list[Next]:
    """Back-tests of the weights of the same run."""
    return of_the_weights(request.source, request.output.out, request.clock, request.memory)


def of_the_weights(source: Source, result: Path, clock: Clock, memory: Memory) -> list[Next]:
    """What comes after a result about a run's outputs: back-tests of its weights."""
    from driftline.commands.backtest import Backtest

    why = "Outputs that run straight do not make a forecast of the weights good. Test that on the run's own later checkpoints."
    output = Output(out=beside(result, "-backtest"))
    return [Next(why, Backtest(source=source, output=output, clock=clock, memory=memory))]
