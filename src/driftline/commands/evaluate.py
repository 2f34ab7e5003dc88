"""`driftline evaluate`: how good is a model on a task?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from driftline.commands.generate import model_of
from driftline.commands.options import Decoding, Output, Printing, TaskChoice, TokenChoice
from driftline.errors import InputError

if TYPE_CHECKING:
    from driftline.decoding.settings import GenerationSettings
    from driftline.evaluation.records import EvaluationRecord
    from driftline.evaluation.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Accuracy on a task: avg@k and pass@k with intervals; of extrapolated decoding beside its controls."""

    model: Annotated[Positional[str | None], arg(metavar="MODEL")] = None
    """folder or Hub name; left out with --early and --late"""
    task: TaskChoice
    output: Output
    early: Annotated[str | None, arg(metavar="MODEL")] = None
    """the early model; of a LoRA adapter the base, if left out"""
    late: Annotated[str | None, arg(metavar="MODEL")] = None
    """the late model of extrapolated decoding"""
    alpha: float | None = None
    """early + alpha (late - early), in logits"""
    samples: int = 8
    """of each problem"""
    tokens: TokenChoice = TokenChoice()
    max_new_tokens: int | None = None
    """longest response; default the task's own"""
    seed: int = 0
    """of the sampling, and of problems that are made"""
    beside: Annotated[str | None, arg(metavar="MODEL")] = None
    """a model to set MODEL beside: sampled alike, greedy, and as sure of its tokens (of a forecast, where it started)"""
    no_control: bool = False
    """extrapolated decoding without the late model beside it"""
    against: Annotated[Path | None, arg(metavar="DIR")] = None
    """an evaluation of the same problems to compare with, pair by pair"""
    decoding: Decoding = Decoding()
    printing: Printing = Printing()


def run(request: Evaluate) -> EvaluationRecord:
    """Sample, score, and write `evaluation.json` and `samples.jsonl`."""
    from driftline.evaluation.evaluate import MARK, evaluate
    from driftline.files.output import output_folder, refuse_occupied
    from driftline.progress import counter

    backend = request.decoding.choice.chosen()
    if backend.name != "http" and (request.model is None) == (request.late is None):
        raise InputError("no model, or two ways of naming one: give either MODEL, or --early and --late with --alpha")
    out, overwrite = request.output.out, request.output.overwrite
    refuse_occupied(out, overwrite=overwrite, mark=MARK)
    task = request.task.open(request.seed)
    settings = _settings(request, task)
    with (
        output_folder(out, overwrite=overwrite, mark=MARK) as folder,
        counter(quiet=request.printing.quiet) as progress,
    ):
        found = evaluate(
            task,
            out,
            settings,
            control=not request.no_control,
            beside=request.beside,
            against=request.against,
            batch_size=request.decoding.batch_size,
            progress=progress,
        )
        found.write(folder)
    return found.record


def _settings(request: Evaluate, task: Task) -> GenerationSettings:
    from driftline.decoding.settings import GenerationSettings

    backend = request.decoding.choice.chosen()
    given = {"model": request.model, "late": request.late}
    if backend.name == "http":
        given |= {"early": request.early, "beside": request.beside}
    return GenerationSettings(
        late=model_of(backend, **given),
        early=request.early,
        alpha=request.alpha,
        **asdict(request.tokens),
        samples=request.samples,
        max_new_tokens=request.max_new_tokens or task.max_new_tokens,
        seed=request.seed,
        dtype=request.decoding.dtype,
        backend=backend,
    )


def show(record: EvaluationRecord, request: Evaluate) -> None:
    from driftline import terminal

    terminal.evaluation(record, request.output.out)
