"""What several studies measure of a run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from driftline.checkpoints.trajectory import Trajectory
from driftline.errors import InputError, first_line
from driftline.evaluation.tasks import sums
from driftline.files.record import Figure
from driftline.lab.record import RunRecord, ScoredStep, read_run, read_scores
from driftline.lab.settings import LabRun
from driftline.linearity.analysis import RunTotals, stored_dtypes, summarize
from driftline.linearity.figures import facts_of
from driftline.linearity.scan import scan
from driftline.linearity.summary import LogprobsSummary, WeightsSummary


def summaries(trajectory: Trajectory, *filters: str) -> list[WeightsSummary]:
    """The summary that `driftline analyze` makes, with each filter, from one reading."""
    totals, facts = RunTotals(), facts_of(trajectory, "step")
    for tensor in scan(trajectory, clock=facts.clock_values, sample=0):
        totals.add(tensor)
    return [summarize(totals, facts, stored_dtypes(trajectory), filter=filter) for filter in filters]


def lab_run(folder: Path) -> RunRecord:
    """What made a run. Raises `InputError` where it is none of the lab's."""
    try:
        return read_run(folder)
    except InputError as error:
        raise _no_run(folder, error) from error


def sums_run(folder: Path) -> LabRun:
    """Settings of a run on one of the lab's sums. Raises `InputError` where it is none."""
    settings = lab_run(folder).settings
    if settings.task not in sums.TERMS:
        raise InputError(
            f"{folder} is of the task {settings.task}: this study scores {', '.join(sums.TERMS)} only, leave it out of --runs"
        )
    return settings


def lab_scores(folder: Path) -> list[ScoredStep]:
    """Accuracy of a run as it went. Raises `InputError` where it is none of the lab's."""
    try:
        return read_scores(folder)
    except InputError as error:
        raise _no_run(folder, error) from error


def _no_run(folder: Path, error: InputError) -> InputError:
    why = first_line(error.__cause__ or error)
    return InputError(f"{folder} is no finished run of driftline train ({why}): leave it out of --runs")


def spread(values: Iterable[Figure], digits: int = 2) -> str:
    """Of one figure over seeds: the median and the range, or the one value."""
    found = sorted(value for value in values if value is not None and np.isfinite(value))
    if not found:
        return "unknown"
    if found[-1] - found[0] < 0.5 * 10**-digits:
        return f"{found[0]:.{digits}f}"
    return f"{np.median(found):.{digits}f} ({found[0]:.{digits}f} to {found[-1]:.{digits}f})"


def rollouts_of(run: Path, file: Path, *, samples: int) -> Path:
    """Responses of a lab run's first checkpoint to its held-out problems; made once, a second call goes on."""
    from driftline.decoding.generate import generate
    from driftline.decoding.settings import GenerationSettings

    settings = GenerationSettings(
        late=str(run / "checkpoint-0"),
        temperature=1.0,
        top_p=1.0,
        samples=samples,
        max_new_tokens=64,
        keep_prompt_ids=True,
    )
    generate(run / "held_out.jsonl", file, settings, batch_size=64)
    return file


def logprob_summary(trajectory: Trajectory, rollouts: Path) -> LogprobsSummary:
    """The summary that `driftline logprobs` makes."""
    from driftline.outputs.logprobs import logprobs

    with tempfile.TemporaryDirectory() as folder:
        return logprobs(trajectory, rollouts, Path(folder), Path(folder) / "out")
