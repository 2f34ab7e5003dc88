"""How good is a model on a task? Samples, scored; of extrapolated decoding beside its controls.

Makes `evaluation.json` and `samples.jsonl`, a row for every sample of every arm. Arms:

    model      one model; or, with two checkpoints and alpha,
    forecast   extrapolated decoding

and beside a second model, which of extrapolated decoding is the late one, those of `control`.

Samples are kept in a hidden folder beside the output while others are still to come, so that the same call
goes on where it stopped.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import numpy as np

from driftline._version import __version__
from driftline.decoding.sampler import Sampler
from driftline.decoding.settings import GenerationSettings
from driftline.decoding.sources import load_sampler, sampler_of
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
    batch_size: int = 16,
    progress: StartStage = no_progress,
    sampler: Sampler | None = None,
) -> EvaluationResult:
    """Score a model, or two checkpoints' extrapolated logits.

    Args:
        out: where the result will be: beside it unfinished work is kept.
        settings: the model, or late, early and alpha, and how it is sampled.
        control: of extrapolated decoding: also the late model, both greedy, and the control for sharpening.
        beside: a model to be the late one of that control; of a forecast in weights, the checkpoint that it started from.
        against: the result of another call on the same problems, to compare with.
        progress: called for each arm with its name and its samples; returns what counts them.
        sampler: that of `settings`, if it is loaded already.

    Raises:
        InputError: the request or a model cannot be used; nothing is written but what a second call goes on from.
    """
    if batch_size < 1:
        raise InputError(f"--batch-size is {batch_size}: it must be at least 1")
    if beside is not None and settings.alpha is not None:
        raise InputError("--beside is of one model: extrapolated decoding has the late model beside it, leave it out")
    other = None if against is None else read_shares(against, task)
    started = time.monotonic()
    sampler = sampler or sampler_of(settings)
    models = [source for source in (settings.late, settings.early, beside) if source is not None]
    request = {"task": task.digest, "settings": asdict(settings), "models": weights_of(models)}
    late, named = _set_beside(sampler, settings, beside) if control else (None, ("", ""))
    with resumable(out, request) as work:

        def draw(arm: str, sampler: Sampler, settings: GenerationSettings) -> list[Row]:
            samples = Samples(work.folder / f"{arm}.jsonl", task, settings)
            advance = progress(arm, samples.missing(len(task.problems)))
            return samples.draw(sampler, len(task.problems), batch_size=batch_size, advance=advance)

        main = "model" if sampler.early is None else "forecast"
        arms = {main: draw(main, sampler, settings)}
        controlled: Control | UnsetType = UNSET
        if late is not None:
            others, controlled = compare_with_late(draw, named, sampler, late, arms[main], task, settings)
            arms |= others
        compared: Against | UnsetType = UNSET
        if other is not None:
            found = paired_difference(right(arms[main], settings.samples).mean(1), other)
            compared = Against(folder=str(against), avg_at_k=float(other.mean()), difference=found)
        record = _record(task, settings, beside, arms[main], controlled, compared, started)
    return EvaluationResult(record, arms, work)


def _set_beside(
    sampler: Sampler, settings: GenerationSettings, beside: str | None
) -> tuple[Sampler | None, tuple[str, str]]:
    """The model to set beside that of `sampler`, or None, and both in words."""
    if sampler.early is not None:
        named = f"extrapolated decoding at alpha {sampler.alpha:g}", "the late model"
        return Sampler(sampler.late, sampler.tokenizer), named
    if beside is None:
        return None, ("", "")
    return load_sampler(beside, dtype=settings.dtype), (settings.late, beside)


def _record(
    task: Task,
    settings: GenerationSettings,
    beside: str | None,
    rows: list[Row],
    control: Control | UnsetType,
    against: Against | UnsetType,
    started: float,
) -> EvaluationRecord:
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
        extraction=task.extraction,
        verifier=task.verifier,
        digest=task.digest,
        control=control,
        against=against,
        versions=versions(),
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
        rows = read_rows(folder / _SAMPLES)
        first = [row for row in rows if row["arm"] == rows[0]["arm"]]
        shares = right(first, record.samples).mean(1)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"--against {folder} is damaged ({error}): evaluate that model again") from error
    if len(shares) != len(task.problems):
        raise InputError(f"--against {folder} is damaged ({len(shares)} problems): evaluate that model again")
    return shares
