"""What every study finds: `study.json`, of which each study has its own rows, and what those are made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from driftline.files.record import UNSET, Record, UnsetType
from driftline.lab.settings import LabRun

LabRuns = Mapping[str, LabRun]
SUMS, STRATEGY = "sums", "strategy"  # the lab in which RL sharpens, and that in which it changes what the model does


class Asked(Record):
    """`request.json`: what a study in a folder is of."""

    study: str
    quick: bool
    runs: list[str]
    task: str | UnsetType = UNSET  # where it is not sums


class StudyRecord(Record, kw_only=True):
    """`study.json`. Each study has a type of its own, which says what its rows are and adds what its page draws."""

    driftline: str
    study: str
    quick: bool
    runs: list[str]
    task: str | UnsetType = UNSET  # where it is not sums
    rows: Any
    findings: list[str]
    seconds: float


@dataclass(frozen=True)
class Findings:
    """What a study shows.

    Attributes:
        rows: records, one for each thing compared, for programs and tables.
        sentences: each with its figures.
        more: what its record has besides.
    """

    rows: Sequence[Any]
    sentences: list[str]
    more: Mapping[str, Any] = field(default_factory=dict)


class Experiment(Protocol):
    """A module of this folder."""

    RECORD: type[StudyRecord]

    def plan(self, quick: bool, task: str = SUMS) -> LabRuns:
        """The runs that it needs, by label, on a task of the lab."""

    def measure(self, runs: Mapping[str, Path], quick: bool) -> Findings:
        """What they show.

        Raises:
            InputError: one of them cannot be used.
        """


@runtime_checkable
class Registered(Experiment, Protocol):
    """An experiment that writes what it expects before it makes the runs that it is about."""

    def parts(self, plan: LabRuns) -> Iterable[tuple[LabRuns, LabRuns]]:
        """The plan in parts: of each, the runs that predictions are made from, and those that they are of."""

    def register(self, out: Path, first: Mapping[str, Path], others: Mapping[str, Path]) -> None:
        """Write what is predicted from the first runs, in the study's folder, before the others are begun.

        Raises:
            InputError: one of the others is there already.
        """
