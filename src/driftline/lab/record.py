"""What lab runs leave beside their checkpoints, and what the demo finds of them: each written and read back as one type."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Literal

import msgspec

from driftline.errors import InputError, first_line
from driftline.evaluation.records import Control
from driftline.files.json import read_json
from driftline.files.lines import whole_lines
from driftline.files.record import UNSET, Record, UnsetType, read_record
from driftline.lab.settings import LabRun

MARK = "run.json"
ACCURACY = "accuracy.jsonl"
_WHAT = "driftline train"


class OptimizerUsed(Record):
    name: str
    adam_beta1: float


class RunRecord(Record, kw_only=True):
    """`run.json`: what made a run, and whether it was completed, and then in how many seconds."""

    kind: Literal["lab"] = "lab"
    optimizer: OptimizerUsed
    settings: LabRun
    max_new_tokens: int
    parameters: int
    processes: int
    versions: dict[str, str]
    completed: bool
    seconds: float | UnsetType = UNSET


class ScoredStep(Record, kw_only=True, rename={"pass_at_k": "pass@k"}):
    """A row of `accuracy.jsonl`: shares of right answers on held-out problems at a step, and seconds since step 0.

    `virtual_step` is that of a run that is re-grounded; `worked` the share of sampled answers that were worked out, of a
    task whose answers may be direct; `train_seconds` leave out what scoring took.
    """

    step: int
    virtual_step: int | UnsetType = UNSET
    greedy: float
    sampled: float
    pass_at_k: dict[str, float] | UnsetType = UNSET
    worked: float | UnsetType = UNSET
    seconds: float
    train_seconds: float


class ModelScore(Record):
    """Accuracy of one model of the demo, trained or forecast."""

    model: str
    folder: str
    greedy: float
    sampled: float


class DemoScores(Record):
    """`scores.json`: the demo's models side by side, on so many problems, sampled so many times each.

    `hindsight` and `forecast` say whether the two forecasts are better than where they started beyond sharpening.
    """

    problems: int
    samples: int
    rows: list[ModelScore]
    hindsight: Control | UnsetType = UNSET
    forecast: Control | UnsetType = UNSET


def read_run(folder: Path) -> RunRecord:
    """What made the run in a folder.

    Raises:
        InputError: there is no `run.json`, or it is not one of the lab's.
    """
    record = read_record(folder / MARK, RunRecord, what=_WHAT)
    unknown = sorted(read_json(folder / MARK)["settings"].keys() - {field.name for field in fields(LabRun)})
    if unknown:
        raise InputError(
            f"{folder / MARK} has the setting {unknown[0]!r}, which is unknown: use the driftline that made it"
        )
    return record


def read_scores(folder: Path) -> list[ScoredStep]:
    """The rows of `accuracy.jsonl`, by step.

    Raises:
        InputError: there are none, or the file is damaged.
    """
    path = folder / ACCURACY
    try:
        rows = [msgspec.json.decode(line, type=ScoredStep) for line in whole_lines(path)]
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give what {_WHAT} wrote") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not what {_WHAT} writes ({first_line(error)}): make it again") from error
    if not rows:
        raise InputError(f"{path} holds no scores: give a run that {_WHAT} finished")
    return rows


def finished(folder: Path, settings: LabRun) -> bool:
    """Whether a complete run of exactly these settings is there."""
    return _begun(folder, settings, completed=True)


def stopped(folder: Path, settings: LabRun) -> bool:
    """Whether a run of exactly these settings was begun there, and not completed."""
    return _begun(folder, settings, completed=False)


def _begun(folder: Path, settings: LabRun, *, completed: bool) -> bool:
    try:
        record = read_run(folder)
    except InputError:
        return False
    return record.completed is completed and record.settings == settings
