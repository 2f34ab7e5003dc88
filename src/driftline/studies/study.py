"""`driftline study NAME`: an experiment of the paper, resumable, with its figures in `study.json`.

A study names the lab runs that it needs (`plan`) and says what they show (`measure`). Runs are kept in
`OUT/runs/`, each finished one once and for all, so that a call that was stopped goes on with the rest.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import cast

from driftline._version import __version__
from driftline.engines import Advance, Engine, LocalEngine
from driftline.errors import InputError
from driftline.files.output import output_folder
from driftline.files.record import UNSET, read_record, write_record
from driftline.lab.record import finished
from driftline.studies.record import SUMS, Asked, Experiment, LabRuns, Registered, StudyRecord

MARK = "study.json"
PAGE = "report.html"  # written after it, from what it holds
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
    "rates",
)

Say = Callable[[str], None]


def experiment_named(name: str) -> Experiment:
    """Raises `InputError` for a name that no study has."""
    if name not in STUDIES:
        raise InputError(f"study {name!r} is unknown: choose {', '.join(STUDIES)}")
    return cast(Experiment, import_module(f"driftline.studies.{name.replace('-', '_')}"))


def run_study(
    name: str,
    out: Path,
    *,
    quick: bool = False,
    task: str = SUMS,
    runs: Sequence[str] = (),
    overwrite: bool = False,
    engine: Engine | None = None,
    say: Say = lambda sentence: None,
) -> StudyRecord | None:
    """Train what is missing, measure, and write `study.json`; what is there already but its page is read back.

    Under `accelerate launch` every process trains, and the first alone measures and writes; the others return None.

    Args:
        quick: a smoke-sized version.
        task: that the runs are made on, sums or strategy.
        runs: folders to measure instead of training new ones.
        overwrite: make the result again; runs that are finished are kept even then.
        engine: where runs are trained; default one after another in this process.

    Raises:
        InputError: an unknown study, `out` holds something else, or a run cannot be used.
    """
    experiment = experiment_named(name)
    elsewhere = UNSET if task == SUMS else task
    asked = Asked(study=name, quick=quick, runs=list(runs), task=elsewhere)
    first = os.environ.get("RANK", "0") == "0"
    if first:
        _take_up(out, asked, overwrite=overwrite)
        if (out / MARK).is_file() and not overwrite:
            return read_record(out / MARK, experiment.RECORD, what="driftline study")
    started = time.monotonic()
    folders = (
        {run: Path(run) for run in runs} if runs else _made(experiment, out, experiment.plan(quick, task), say, engine)
    )
    if not first:
        return None
    found = experiment.measure(folders, quick)
    record = experiment.RECORD(
        driftline=__version__,
        study=name,
        quick=quick,
        runs=list(runs),
        task=elsewhere,
        rows=list(found.rows),
        findings=found.sentences,
        seconds=time.monotonic() - started,
        **found.more,
    )
    (out / PAGE).unlink(missing_ok=True)  # a former result's
    write_record(out / MARK, record)
    return record


def _made(experiment: Experiment, out: Path, plan: LabRuns, say: Say, engine: Engine | None) -> dict[str, Path]:
    """The runs of a plan; what an experiment predicts is written before the runs that it is of are begun."""
    if not isinstance(experiment, Registered):
        return lab_runs(out / "runs", plan, say, engine)
    folders: dict[str, Path] = {}
    for before, after in experiment.parts(plan):
        first = lab_runs(out / "runs", before, say, engine)
        if os.environ.get("RANK", "0") == "0":
            experiment.register(out, first, {label: out / "runs" / label for label in after})
        folders |= first | lab_runs(out / "runs", after, say, engine)
    return folders


def lab_runs(folder: Path, plan: LabRuns, say: Say, engine: Engine | None = None) -> dict[str, Path]:
    """The runs of a plan, by label; those that are not finished are trained."""
    missing = [label for label, settings in plan.items() if not finished(folder / label, settings)]

    def start(label: str) -> Advance:
        say(f"run {missing.index(label) + 1} of {len(missing)}: {label}")
        return lambda amount: None

    for _ in (engine or LocalEngine()).map_models(partial(_train, folder=folder, plan=plan), missing, start):
        pass
    return {label: folder / label for label in plan}


def _train(label: str, advance: Advance, *, folder: Path, plan: LabRuns) -> None:
    from driftline.lab.run import train

    train(folder / label, plan[label], overwrite=True)


def _take_up(out: Path, asked: Asked, *, overwrite: bool) -> None:
    """Make the folder, or go on with it if it is of the same study and its result or its page is not there yet."""
    path = out / _REQUEST
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        with output_folder(out, mark=_REQUEST) as folder:  # it appears with the request in it
            write_record(folder / _REQUEST, asked)
        return
    if not path.is_file():
        raise InputError(f"{out} holds files that are not a study's: choose another folder with --out")
    begun = read_record(path, Asked, what="driftline study")
    if begun != asked and not overwrite:
        raise InputError(
            f"{out} holds the study {begun.study!r} of another request: choose another folder, or --overwrite"
        )
    if (out / MARK).is_file() and (out / PAGE).is_file() and not overwrite:
        raise InputError(f"{out} holds a finished study: choose another folder, or --overwrite to measure it again")
    if begun != asked:
        for name in (PAGE, MARK):
            (out / name).unlink(missing_ok=True)
        write_record(path, asked)
