"""`driftline sweep`: which target is best, or which checkpoint?"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from driftline.commands.options import (
    BackendChoice,
    Decoding,
    Memory,
    Output,
    Printing,
    Source,
    TaskChoice,
    TokenChoice,
    Where,
)
from driftline.commands.requests import Next, beside, command_line, spelled_out
from driftline.errors import InputError

if TYPE_CHECKING:
    from driftline.decoding.settings import GenerationSettings
    from driftline.evaluation.records import SweepRecord
    from driftline.evaluation.tasks import Task


_METHOD = "two-point"


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Which target, or which checkpoint, scores best on a task: few problems for all, more for the best."""

    source: Source
    to: Annotated[str | None, arg(metavar="STEPS")] = None
    """targets: FIRST:LAST:STRIDE, or a list 1200,1400"""
    checkpoints: Annotated[str | None, arg(metavar="STEPS")] = None
    """checkpoints of the run that may be the best: all, FIRST:LAST:STRIDE, or a list 0,100"""
    task: TaskChoice
    output: Output
    output_space: bool = False
    """extrapolate logits of the first and last step used, not weights"""
    method: str = _METHOD
    """of forecasts in weights, as in extrapolate"""
    from_: Annotated[tuple[int, ...], arg(name="from", metavar="STEP...")] = ()
    """observed steps to use; the last of them is what the best is compared with"""
    memory: Memory = Memory()
    keep_models: bool = False
    """keep the forecasts in weights, as DIR/models/step-N; else each is deleted when scored"""
    observed: int = 4
    """checkpoints of the run to score beside, for context"""
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
    from driftline import terminal
    from driftline.checkpoints.discovery import choose_steps
    from driftline.evaluation.sweep import MARK, sweep
    from driftline.files.output import output_folder, refuse_occupied
    from driftline.forecast.request import ForecastRequest, parse_targets
    from driftline.progress import counter
    from driftline.report import sweep as page

    _refuse_contradictions(request)
    targets = () if request.to is None else parse_targets(request.to)
    out, overwrite = request.output.out, request.output.overwrite
    refuse_occupied(out, overwrite=overwrite, mark=MARK)
    trajectory = request.source.open()
    tried: list[int] = []
    if request.checkpoints is not None:
        chosen = None if request.checkpoints == "all" else request.checkpoints
        tried = choose_steps(trajectory.steps, chosen, flag="--checkpoints")
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
            ForecastRequest(
                targets=targets,
                method=request.method,
                seen=request.from_,
                beta1=request.memory.beta1,
                ema=request.memory.ema,
            ),
            _settings(request, task),
            tried=tried,
            output_space=request.output_space,
            keep_models=request.keep_models,
            observed=request.observed,
            batch_size=request.decoding.batch_size,
            engine=engine,
            progress=progress,
            say=terminal.while_working(quiet=request.printing.quiet),
        )
        steps = spelled_out(next_steps(found.record, request))
        page.write(folder, found.record, command=command_line(request), next_steps=steps)
        found.write(folder)
    return found.record


def _refuse_contradictions(request: Sweep) -> None:
    """Refuse what is wrong with the request whatever the run."""
    if request.to is None and request.checkpoints is None:
        raise InputError("nothing to score: give --to for forecasts, --checkpoints for checkpoints of the run, or both")
    of_forecasts = {
        "--output-space": request.output_space,
        "--method": request.method != _METHOD,
        "--keep-models": request.keep_models,
    }
    for flag, given in of_forecasts.items():
        if given and request.to is None:
            raise InputError(f"{flag} is of forecasts, and --checkpoints asks for none: add --to, or leave {flag} out")
    if request.keep_models and request.output_space:
        raise InputError(
            "--keep-models keeps forecasts in weights, and --output-space writes none: leave one of them out"
        )


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
    from driftline.evaluation.records import UNSET

    out, best, early, late = request.output.out, record.best, record.early, record.late
    temperature = request.tokens.temperature
    if best.better and record.winner.folder is not UNSET:
        why = "Confirm it on other samples, beside the last checkpoint, and on problems that did not choose it where the task makes its own."
        pair = {"model": record.winner.folder, "beside": late.folder}
        return [Next(why, _again(request, "-confirm", temperature, **pair))]
    if best.better and record.space == "logits":
        why = "Confirm it on other samples, and on problems that did not choose it where the task makes its own."
        alpha = float(f"{(best.step - early.step) / (late.step - early.step):.6g}")
        models = {"early": early.folder, "late": late.folder, "alpha": alpha}
        return [Next(why, _again(request, "-confirm", temperature, **models))]
    if best.better:
        why = "Write the best forecast as a model; then confirm it on problems that did not choose it."
        target = ModelOutput(out=beside(out, f"-step-{best.step}"))
        asked = Extrapolate(
            source=request.source,
            output=target,
            to=str(best.step),
            method=request.method,
            from_=request.from_,
            memory=request.memory,
        )
        return [Next(why, asked)]
    if best.surer:
        why = "Sample the last checkpoint colder instead; confirm that on other samples."
        temperature = float(f"{record.control.late_matched.temperature:.3g}")
        return [Next(why, _again(request, "-colder", temperature, model=late.folder))]
    what = "other checkpoint" if record.forecast is UNSET else "candidate"
    why = f"No {what} beat the last checkpoint. See how far ahead this run can be forecast at all."
    tested = Output(out=beside(out, "-backtest"))
    return [Next(why, Backtest(source=request.source, output=tested, memory=request.memory))]


def _again(request: Sweep, suffix: str, temperature: float, **model: Any) -> Any:
    """An evaluation on the same task, by other samples; models of a server are run here, as folders are named."""
    from driftline.commands.evaluate import Evaluate

    choice = request.decoding.choice

    return Evaluate(
        task=request.task,
        output=Output(out=beside(request.output.out, suffix)),
        tokens=replace(request.tokens, temperature=temperature),
        max_new_tokens=request.max_new_tokens,
        samples=request.samples,
        seed=request.seed + 1,
        decoding=Decoding(dtype=request.decoding.dtype, choice=BackendChoice() if choice.backend == "http" else choice),
        **model,
    )
