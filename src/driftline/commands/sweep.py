"""`driftline sweep`: which target is best?"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from driftline.commands.options import Decoding, Output, Printing, Source, TaskChoice, TokenChoice, Where
from driftline.commands.requests import Next, beside, command_line, spelled_out

if TYPE_CHECKING:
    from driftline.decoding.settings import GenerationSettings
    from driftline.evaluation.records import SweepRecord
    from driftline.evaluation.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Which target scores best on a task: few problems for all, more for the best."""

    source: Source
    to: Annotated[str, arg(metavar="STEPS")]
    """targets: FIRST:LAST:STRIDE, or a list 1200,1400"""
    task: TaskChoice
    output: Output
    output_space: bool = False
    """extrapolate logits of the first and last step used, not weights"""
    method: str = "two-point"
    """of forecasts in weights, as in extrapolate"""
    from_: Annotated[tuple[int, ...], arg(name="from", metavar="STEP...")] = ()
    """observed steps to use"""
    observed: int = 4
    """checkpoints of the run to score beside"""
    samples: int = 4
    """of each problem"""
    tokens: TokenChoice = TokenChoice()
    max_new_tokens: int | None = None
    """longest response; default the task's own"""
    seed: int = 0
    """of the sampling, and of problems that are made"""
    decoding: Decoding = Decoding()
    where: Where = Where()
    printing: Printing = Printing()


def run(request: Sweep) -> SweepRecord:
    """Score targets and checkpoints, and write `sweep.json` and `report.html`."""
    from driftline.evaluation.sweep import MARK, sweep
    from driftline.files.output import output_folder, refuse_occupied
    from driftline.forecast.request import ForecastRequest, parse_targets
    from driftline.progress import counter
    from driftline.report import sweep as page

    out, overwrite = request.output.out, request.output.overwrite
    refuse_occupied(out, overwrite=overwrite, mark=MARK)
    trajectory = request.source.open()
    task = request.task.open(request.seed)
    with (
        request.where.open() as engine,
        output_folder(out, overwrite=overwrite, mark=MARK) as folder,
        counter(quiet=request.printing.quiet) as progress,
    ):
        found = sweep(
            trajectory,
            task,
            out,
            ForecastRequest(targets=parse_targets(request.to), method=request.method, seen=request.from_),
            _settings(request, task),
            output_space=request.output_space,
            observed=request.observed,
            batch_size=request.decoding.batch_size,
            engine=engine,
            progress=progress,
        )
        steps = spelled_out(next_steps(found.record, request))
        page.write(folder, found.record, command=command_line(request), next_steps=steps)
        found.write(folder)
    return found.record


def _settings(request: Sweep, task: Task) -> GenerationSettings:
    from driftline.decoding.settings import GenerationSettings

    return GenerationSettings(
        late="",
        **asdict(request.tokens),
        samples=request.samples,
        max_new_tokens=request.max_new_tokens or task.max_new_tokens,
        seed=request.seed,
        dtype=request.decoding.dtype,
        backend=request.decoding.choice.chosen(),
    )


def show(record: SweepRecord, request: Sweep) -> None:
    from driftline import terminal

    terminal.sweep(record, request.output.out)


def next_steps(record: SweepRecord, request: Sweep) -> list[Next]:
    """Confirm what was found; where nothing was, ask how far the run can be forecast at all."""
    from driftline.commands.backtest import Backtest
    from driftline.commands.extrapolate import Extrapolate, ModelOutput

    out, best, early, late = request.output.out, record.best, record.early, record.late
    if best.better and record.space == "logits":
        why = "Confirm it on other samples, and on problems that did not choose it where the task makes its own."
        alpha = float(f"{(best.step - early.step) / (late.step - early.step):.6g}")
        pair = {"early": early.folder, "late": late.folder, "alpha": alpha}
        return [Next(why, _again(request, "-confirm", request.tokens.temperature, **pair))]
    if best.better:
        why = "Write the best forecast as a model; then confirm it on problems that did not choose it."
        target = ModelOutput(out=beside(out, f"-step-{best.step}"))
        asked = Extrapolate(
            source=request.source, output=target, to=str(best.step), method=request.method, from_=request.from_
        )
        return [Next(why, asked)]
    if best.surer:
        why = "Sample the last checkpoint colder instead; confirm that on other samples."
        temperature = float(f"{record.control.late_matched.temperature:.3g}")
        return [Next(why, _again(request, "-colder", temperature, model=late.folder))]
    why = "No forecast beat the observed checkpoints. See how far ahead this run can be forecast at all."
    return [Next(why, Backtest(source=request.source, output=Output(out=beside(out, "-backtest"))))]


def _again(request: Sweep, suffix: str, temperature: float, **model: Any) -> Any:
    """An evaluation on the same task, by other samples."""
    from driftline.commands.evaluate import Evaluate

    return Evaluate(
        task=request.task,
        output=Output(out=beside(request.output.out, suffix)),
        tokens=replace(request.tokens, temperature=temperature),
        max_new_tokens=request.max_new_tokens,
        samples=request.samples,
        seed=request.seed + 1,
        decoding=Decoding(dtype=request.decoding.dtype),
        **model,
    )
