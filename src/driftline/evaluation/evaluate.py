"""How good is a model on a task? Samples, scored; of extrapolated decoding beside its controls.

Makes `evaluation.json` and `samples.jsonl`, a row for every sample of every arm. Arms:

    model      one model; or, with two checkpoints and alpha,
    forecast   extrapolated decoding

and beside a second model, which of extrapolated decoding is the late one, those of `control`; a server's have none.

Samples are kept in a hidden folder beside the output while others are still to come, so that the same call
goes on where it stopped.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from driftline._version import __version__
from driftline.decoding.backends.decoder import Decoder
from driftline.decoding.backends.endpoint import served
from driftline.decoding.backends.opening import must_be_positive, open_decoder
from driftline.decoding.settings import GenerationSettings, must_be_few
from driftline.errors import InputError
from driftline.evaluation.control import compare_with_late
from driftline.evaluation.metrics import paired_difference
from driftline.evaluation.records import UNSET, Against, Control, EvaluationRecord, UnsetType
from driftline.evaluation.samples import Samples, figures, resumable, right
from driftline.evaluation.tasks import Task
from driftline.evaluation.versions import versions
from driftline.files.fingerprint import weights_of
from driftline.files.lines import Row, write_lines
from driftline.files.record import read_record, write_record
from driftline.files.work import Work
from driftline.progress import StartStage, no_progress
from driftline.prompts import read_rows

Array = np.ndarray

MARK = "evaluation.json"
_SAMPLES = "samples.jsonl"


@dataclass(frozen=True)
class EvaluationResult:
    """What was found, the samples of each arm that it was found from, and the work that holds them until it is written."""

    record: EvaluationRecord
    arms: dict[str, list[Row]]
    work: Work

    def write(self, folder: Path) -> None:
        """Write both files; what made them is not needed any more."""
        write_lines(folder / _SAMPLES, ({"arm": arm, **row} for arm, rows in self.arms.items() for row in rows))
        write_record(folder / MARK, self.record)
        self.work.remove()


def evaluate(
    task: Task,
    out: Path,
    settings: GenerationSettings,
    *,
    control: bool = True,
    beside: str | None = None,
    against: Path | None = None,
    batch_size: int | None = None,
    progress: StartStage = no_progress,
    decoder: Decoder | None = None,
) -> EvaluationResult:
    """Score a model, or two checkpoints' extrapolated logits.

    Args:
        out: where the result will be: beside it unfinished work is kept.
        settings: the model, or late, early and alpha, and how it is sampled.
        control: of extrapolated decoding: also the late model, both greedy, and the control for sharpening; a server
            has none, as it does not give the distributions that the last one compares.
        beside: a model to be the late one of that control; of a forecast in weights, the checkpoint that it started from.
        against: the result of another call on the same problems, to compare with.
        progress: called for each arm with its name and its samples; returns what counts them.
        batch_size: completions decoded at once; None leaves it to the backend.
        decoder: that of `settings`, if it is open already.

    Raises:
        InputError: the request or a model cannot be used; nothing is written but what a second call goes on from.
    """
    must_be_positive(batch_size)
    must_be_few(len(task.problems), settings.samples)
    if beside is not None and settings.alpha is not None:
        raise InputError("--beside is of one model: extrapolated decoding has the late model beside it, leave it out")
    other = None if against is None else read_shares(against, task)
    started = time.monotonic()
    models = [*settings.sources, *([] if beside is None else [beside])]
    request = {"task": task.digest, "settings": settings.record(), "models": weights_of(models)}
    with ExitStack() as opened:
        opening = open_decoder(settings, batch_size) if decoder is None else nullcontext(decoder)
        model = opened.enter_context(opening)
        late, named = None, ("", "")
        if control and model.alpha is not None and settings.backend.name != "http":
            late, named = model.late_alone(), (f"extrapolated decoding at alpha {model.alpha:g}", "the late model")
        elif control and beside is not None:
            late = opened.enter_context(open_decoder(replace(settings, late=beside), batch_size))
            named = (settings.late, beside)
        work = opened.enter_context(resumable(out, {**request, **served(settings.backend)}))

        def draw(arm: str, decoder: Decoder, settings: GenerationSettings) -> list[Row]:
            samples = Samples(work.folder / f"{arm}.jsonl", task, settings)
            advance = progress(arm, samples.missing(len(task.problems)))
            return samples.draw(decoder, len(task.problems), advance=advance)

        main = "model" if model.alpha is None else "forecast"
        arms = {main: draw(main, model, settings)}
        controlled: Control | UnsetType = UNSET
        if late is not None:
            others, controlled = compare_with_late(draw, named, model, late, arms[main], task, settings)
            arms |= others
        compared: Against | UnsetType = UNSET
        if other is not None:
            found = paired_difference(right(arms[main], settings.samples).mean(1), other)
            compared = Against(folder=str(against), avg_at_k=float(other.mean()), difference=found)
        record = _record(task, settings, beside, arms[main], controlled, compared, started)
    return EvaluationResult(record, arms, work)


def _record(
    task: Task,
    settings: GenerationSettings,
    beside: str | None,
    rows: list[Row],
    control: Control | UnsetType,
    against: Against | UnsetType,
    started: float,
) -> EvaluationRecord:
    told = settings.backend.record()
    return EvaluationRecord(
        driftline=__version__,
        task=task.name,
        problems=len(task.problems),
        samples=settings.samples,
        **msgspec.structs.asdict(figures(rows, settings.samples)),
        late=settings.late,
        early=settings.early,
        alpha=settings.alpha,
        beside=UNSET if beside is None else beside,
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        max_new_tokens=settings.max_new_tokens,
        seed=settings.seed,
        dtype=settings.dtype,
        backend=told.get("backend", UNSET),
        endpoint=told.get("endpoint", UNSET),
        extraction=task.extraction,
        verifier=task.verifier,
        digest=task.digest,
        control=control,
        against=against,
        versions=versions(settings.backend.name),
        seconds=time.monotonic() - started,
    )


def read_shares(folder: Path, task: Task) -> Array:
    """Share of right samples of each problem [P], from a result of `driftline evaluate` on the same problems.

    Raises:
        InputError: it is no such result, or of other problems.
    """
    if not (folder / MARK).is_file():
        raise InputError(f"--against {folder} holds no {MARK}: give a folder that driftline evaluate wrote")
    record = read_record(folder / MARK, EvaluationRecord, what="driftline evaluate")
    if record.digest != task.digest:
        raise InputError(f"--against {folder} is of other problems than --task {task.name}: both must be the same")
    try:
        rows = read_rows(folder / _SAMPLES, longest=sys.maxsize)
        first = [row for row in rows if row["arm"] == rows[0]["arm"]]
        shares = right(first, record.samples).mean(1)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"--against {folder} is damaged ({error}): evaluate that model again") from error
    if len(shares) != len(task.problems):
        raise InputError(f"--against {folder} is damaged ({len(shares)} problems): evaluate that model again")
    return shares
