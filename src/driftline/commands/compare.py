"""`driftline compare`: several results side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from driftline.commands.options import Output, Source
from driftline.commands.requests import Next, beside, command_line, named, spelled_out

if TYPE_CHECKING:
    from driftline.linearity.comparison import Comparison


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Several analyses side by side, each beside its own chance."""

    results: Annotated[Positional[tuple[Path, ...]], arg(metavar="DIR")]
    """results of analyze, logprobs or activations"""
    output: Output
    json: bool = False
    """print the record as JSON, and nothing else"""


def run(request: Compare) -> Comparison:
    """Read the summaries, and write `comparison.json` and `report.html`."""
    from driftline.files.output import output_folder
    from driftline.files.record import write_record
    from driftline.linearity.comparison import MARK, compare
    from driftline.report import comparison as page

    record = compare(request.results)
    with output_folder(request.output.out, overwrite=request.output.overwrite, mark=MARK) as folder:
        write_record(folder / MARK, record)
        steps = spelled_out(next_steps(record, request))
        page.write(folder, record, command=command_line(request), next_steps=steps)
    return record


def show(record: Comparison, request: Compare) -> None:
    from driftline import terminal

    terminal.comparison(record)
    print()
    terminal.report(request.output.out)


def next_steps(record: Comparison, request: Compare) -> list[Next]:
    """Back-tests of the run that a damped line forecasts best."""
    from driftline.commands.backtest import Backtest

    of_weights = [row for row in record.rows if row.linear and row.kind == "weights"]
    if not of_weights:
        return []
    best = max(of_weights, key=lambda row: row.skill["damped"] or 0.0)
    folder = Path(best.folder)
    asked = Backtest(
        source=Source(run=named(best.run)), output=Output(out=beside(folder, "-backtest")), analysis=folder
    )
    return [Next("See how far ahead the most predictable of them can be forecast.", asked)]
