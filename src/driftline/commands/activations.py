"""`driftline activations`: do activations run straight too, and where does a change come from?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from driftline.commands.logprobs import of_the_weights
from driftline.commands.options import Clock, Memory, ModelDtype, Output, Printing, Source
from driftline.commands.requests import Next, command_line, spelled_out

if TYPE_CHECKING:
    from driftline.linearity.summary import ActivationsSummary

MARK = "summary.json"


@dataclass(frozen=True, kw_only=True)
class Activations:
    """The same for hidden states, attention and MLP outputs; and where a layer's change comes from."""

    source: Source
    rollouts: Annotated[Path, arg(metavar="FILE")]
    """JSON lines: prompt or messages with response, or prompt_ids and response_ids"""
    output: Output
    layers: Annotated[tuple[int, ...], arg(metavar="LAYER...")] = ()
    """layers to look into; default four, spread evenly"""
    positions: int = 256
    """response positions to sample"""
    units: int = 64
    """units of each block to sample"""
    seed: int = 0
    """of both samples"""
    clock: Clock = "step"
    """what lines are drawn against: step, or summed learning rate"""
    memory: Memory = Memory()
    dtype: ModelDtype = "auto"
    """to run models in; auto: as saved"""
    printing: Printing = Printing()


def run(request: Activations) -> ActivationsSummary:
    """Measure, and write `summary.json`, `units.parquet` and `report.html`."""
    from driftline.files.output import output_folder, refuse_occupied
    from driftline.files.record import write_record
    from driftline.outputs import activations as measure
    from driftline.progress import counter
    from driftline.report import outputs as page

    out, overwrite = request.output.out, request.output.overwrite
    refuse_occupied(out, overwrite=overwrite, mark=MARK)
    trajectory = request.source.open(needed=3)
    sampling = measure.Sampling(
        layers=request.layers, positions=request.positions, units=request.units, seed=request.seed
    )
    with (
        output_folder(out, overwrite=overwrite, mark=MARK) as folder,
        counter(quiet=request.printing.quiet) as progress,
    ):
        summary = measure.activations(
            trajectory,
            request.rollouts,
            folder,
            out,
            sampling=sampling,
            clock=request.clock,
            beta1=request.memory.beta1,
            ema=request.memory.ema,
            dtype=request.dtype,
            progress=progress,
        )
        write_record(folder / MARK, summary)
        steps = spelled_out(next_steps(summary, request))
        page.write_activations(folder, summary, command=command_line(request), next_steps=steps)
    return summary


def show(summary: ActivationsSummary, request: Activations) -> None:
    from driftline import terminal

    terminal.analysis(summary)
    terminal.report(request.output.out)


def next_steps(summary: ActivationsSummary, request: Activations) -> list[Next]:
    """Back-tests of the weights of the same run."""
    return of_the_weights(request.source, request.output.out, request.clock, request.memory)
