"""`driftline study NAME`: an experiment of the paper, resumable, with its figures in `study.json`.

A study names the lab runs that it needs (`plan`) and says what they show (`measure`). Runs are kept in
`OUT/runs/`, each finished one once and for all, so that a call that was stopped goes on with the rest.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from driftline._version import __version__
from driftline.engines import Advance, Engine, LocalEngine
from driftline.errors import InputError
from driftline.files.atomic import replace_text
from driftline.files.json import json_text
from driftline.lab.settings import LabRun

MARK = "study.json"
_REQUEST = "request.json"
STUDIES = (
    "robustness",
    "rl-vs-sft",
    "noise",
    "output-change",
    "weight-targets",
    "output-targets",
    "speedup",
    "filter-bias",
    "rank",
)

Plan = Mapping[str, LabRun]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What a study shows.

    Attributes:
        rows: one for each thing compared, for programs and tables.
        findings: sentences, each with its figures.
        more: what its report draws besides.
    """

    rows: list[dict[str, Any]]
    findings: list[str]
    more: dict[str, Any]


class Study(Protocol):
    """A module of this folder."""

    def plan(self, quick: bool) -> Plan: ...

    def measure(self, runs: Mapping[str, Path], quick: bool) -> Outcome: ...


def study_named(name: str) -> Study:
    """Raises `InputError` for a name that no study has."""
    if name not in STUDIES:
        raise InputError(f"study {name!r} is unknown: choose {', '.join(STUDIES)}")
    return import_module(f"driftline.studies.{name.replace('-', '_')}")


def run_study(
    name: str,
    out: Path,
    *,
    quick: bool = False,
    runs: Sequence[str] = (),
    overwrite: bool = False,
    engine: Engine | None = None,
    say: Say = lambda sentence: None,
) -> dict[str, Any]:
    """Train what is missing, measure, and write `study.json`.

    Under `accelerate launch` every process trains, and the first alone measures and writes; the others return nothing.

    Args:
        quick: a smoke-sized version.
        runs: folders to measure instead of training new ones.
        overwrite: make the result again; runs that are finished are kept even then.
        engine: where runs are trained; default one after another in this process.

    Raises:
        InputError: an unknown study, `out` holds something else, or a run cannot be used.
    """
    study = study_named(name)
    request = {"study": name, "quick": quick, "runs": list(runs)}
    first = int(os.environ.get("RANK", "0")) == 0
    if first:
        _take_up(out, request, overwrite=overwrite)
    started = time.monotonic()
    folders = {run: Path(run) for run in runs} if runs else lab_runs(out / "runs", study.plan(quick), say, engine)
    if not first:
        return {}
    outcome = study.measure(folders, quick)
    record = {
        "driftline": __version__,
        **request,
        "rows": outcome.rows,
        "findings": outcome.findings,
        **outcome.more,
        "seconds": time.monotonic() - started,
    }
    replace_text(out / MARK, json_text(record))
    return record


def lab_runs(folder: Path, plan: Plan, say: Say, engine: Engine | None = None) -> dict[str, Path]:
    """The runs of a plan, by label; those that are not finished are trained."""
    missing = [label for label, settings in plan.items() if not finished(folder / label, settings)]

    def start(label: str) -> Advance:
        say(f"run {missing.index(label) + 1} of {len(missing)}: {label}")
        return lambda amount: None

    for _ in (engine or LocalEngine()).map_models(partial(_train, folder=folder, plan=plan), missing, start):
        pass
    return {label: folder / label for label in plan}


def _train(label: str, advance: Advance, *, folder: Path, plan: Plan) -> None:
    from driftline.lab.run import train

    train(folder / label, plan[label], overwrite=True)


def finished(run: Path, settings: LabRun) -> bool:
    """Whether a complete run of exactly these settings is there."""
    try:
        record = json.loads((run / "run.json").read_text())
        return record["completed"] is True and LabRun(**record["settings"]) == settings
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _take_up(out: Path, request: dict[str, Any], *, overwrite: bool) -> None:
    """Make the folder, or go on with it if it is of the same study and has no result yet."""
    path = out / _REQUEST
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not path.is_file())):
        raise InputError(f"{out} holds files that are not a study's: choose another folder with --out")
    if path.is_file():
        begun = json.loads(path.read_text())
        if begun != request and not overwrite:
            raise InputError(
                f"{out} holds the study {begun.get('study')!r} of another request: choose another folder, or --overwrite"
            )
        if (out / MARK).is_file() and not overwrite:
            raise InputError(f"{out} holds a finished study: choose another folder, or --overwrite to measure it again")
    out.mkdir(parents=True, exist_ok=True)
    replace_text(path, json_text(request))
