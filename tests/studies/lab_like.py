"""What a lab run leaves beside its checkpoints, without the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from msgspec import to_builtins

from driftline.files.lines import write_lines
from driftline.files.record import write_record
from driftline.lab.record import ACCURACY, MARK, OptimizerUsed, RunRecord, ScoredStep
from driftline.lab.settings import LabRun


def write_run(
    folder: Path,
    settings: LabRun,
    steps: Iterable[int] = (),
    accuracy: Callable[[int], float] = lambda step: 0.5,
    *,
    adam_beta1: float = 0.9,
    completed: bool = True,
) -> Path:
    """`run.json`, and `accuracy.jsonl` of some steps, two seconds each."""
    record = RunRecord(
        optimizer=OptimizerUsed(name="adamw", adam_beta1=adam_beta1),
        settings=settings,
        max_new_tokens=8,
        parameters=1,
        processes=1,
        versions={},
        completed=completed,
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_record(folder / MARK, record)
    rows = [
        ScoredStep(step=step, greedy=1.0, sampled=accuracy(step), seconds=2.0 * step, train_seconds=2.0 * step)
        for step in steps
    ]
    write_lines(folder / ACCURACY, map(to_builtins, rows))
    return folder
