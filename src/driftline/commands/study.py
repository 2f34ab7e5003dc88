"""`driftline study`: an experiment of the paper."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from driftline.commands.options import Quiet, Where
from driftline.commands.requests import Next, beside, command_line, spelled_out

if TYPE_CHECKING:
    from driftline.studies.record import StudyRecord


@dataclass(frozen=True, kw_only=True)
class Study:
    """An experiment of the paper, at the size of this machine, or on more under accelerate launch or Ray."""

    name: Annotated[Positional[str], arg(metavar="NAME")]
    """robustness, rl-vs-sft, noise, output-change, weight-targets, output-targets, speedup, filter-bias, rank or rates"""
    out: Annotated[Path, arg(metavar="DIR")]
    """folder to write; a second call goes on with what is not finished"""
    quick: bool = False
    """a smoke-sized version"""
    task: Literal["sums", "strategy"] = "sums"
    """what the runs are trained on: in sums RL sharpens, in strategy it changes what the model does"""
    runs: Annotated[tuple[str, ...], arg(metavar="RUN...")] = ()
    """runs to measure, instead of training new ones"""
    where: Where = Where()
    overwrite: bool = False
    """measure again; finished runs are kept"""
    printing: Quiet = Quiet()


def run(request: Study) -> StudyRecord | None:
    """Train what is missing, measure, and write `study.json` and then `report.html`; None where another process does."""
    from driftline import terminal
    from driftline.report import study as page
    from driftline.studies.study import run_study

    with request.where.open() as engine:
        record = run_study(
            request.name,
            request.out,
            quick=request.quick,
            task=request.task,
            runs=request.runs,
            overwrite=request.overwrite,
            engine=engine,
            say=terminal.while_working(quiet=request.printing.quiet),
        )
    if record is None:
        return None
    steps = spelled_out(next_steps(record, request))
    page.write(request.out, record, command=command_line(request), next_steps=steps)
    return record


def show(record: StudyRecord, request: Study) -> None:
    print("\n".join(record.findings))
    print(f"\nreport: {request.out / 'report.html'}")


def next_steps(record: StudyRecord, request: Study) -> list[Next]:
    """The study at its full size, or of runs of one's own."""
    if request.quick:
        why = "Run the study at its full size; runs that were given are measured again."
        return [
            Next(why, Study(name=request.name, out=beside(request.out, "-full"), task=request.task, runs=request.runs))
        ]
    if request.runs:
        return []
    why = "Measure runs of your own in the same way: put their folders in place of RUN."
    return [Next(why, Study(name=request.name, out=beside(request.out, "-of-mine"), runs=("RUN",)))]
