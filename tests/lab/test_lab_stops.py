"""What a stopped lab run leaves, and what the next call for the same folder does with it; nothing is trained here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from driftline.commands.demo import QUICK, _finished_run
from driftline.errors import InputError
from driftline.files.lock import held
from driftline.files.record import write_record
from driftline.lab import run as lab
from driftline.lab.record import MARK, OptimizerUsed, RunRecord
from driftline.lab.settings import LabRun

SETTINGS = LabRun(steps=4)


class Accepted(Exception):
    """`train` would begin."""


@pytest.fixture(autouse=True)
def nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(name: str, difficulty: int) -> None:
        raise Accepted

    monkeypatch.setattr(lab, "lab_task", begin)


def leave(out: Path, settings: LabRun = SETTINGS, *, completed: bool = False) -> Path:
    record = RunRecord(
        optimizer=OptimizerUsed(name="adamw", adam_beta1=0.9),
        settings=settings,
        max_new_tokens=8,
        parameters=1,
        processes=1,
        versions={},
        completed=completed,
    )
    (out / "checkpoint-0").mkdir(parents=True)
    write_record(out / MARK, record)
    return out


def accepted(out: Path, *, overwrite: bool = False) -> list[str]:
    """What `train` says where it would begin."""
    said: list[str] = []
    with pytest.raises(Accepted):
        lab.train(out, SETTINGS, say=said.append, overwrite=overwrite)
    return said


def test_a_stopped_run_of_the_same_settings_begins_again(tmp_path: Path) -> None:
    (sentence,) = accepted(leave(tmp_path / "run"))
    assert sentence.endswith(
        "run holds an incomplete run of these settings: it is removed, and the run begins again at step 0"
    )
    assert (tmp_path / "run" / "checkpoint-0").is_dir()  # until its successor is there


@pytest.mark.parametrize(
    ("settings", "completed"), [(LabRun(steps=5), False), (LabRun(steps=5), True), (SETTINGS, True)]
)
def test_other_runs_are_refused_and_overwritten_if_asked(tmp_path: Path, settings: LabRun, completed: bool) -> None:
    out = leave(tmp_path / "run", settings, completed=completed)
    with pytest.raises(InputError, match="is not empty"):
        lab.train(out, SETTINGS)
    assert accepted(out, overwrite=True) == []


@pytest.mark.parametrize("damage", [lambda mark: mark.unlink(), lambda mark: mark.write_text("{}")])
def test_what_is_no_lab_run_is_not_taken_for_one(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    out = leave(tmp_path / "run")
    damage(out / MARK)
    with pytest.raises(InputError, match="is not empty"):
        lab.train(out, SETTINGS)
    assert (out / "checkpoint-0").is_dir()


def test_a_run_that_is_being_trained_is_left_alone(tmp_path: Path) -> None:
    out = leave(tmp_path / "run")
    with held(out):
        for overwrite in (False, True):
            with pytest.raises(InputError, match="another process trains in"):
                lab.train(out, SETTINGS, overwrite=overwrite)
    accepted(out)


def test_a_run_that_was_set_aside_is_found_again(tmp_path: Path) -> None:
    """As a process leaves it that is killed when it replaces a stopped run."""
    leave(tmp_path / ".run.old-1234")
    (tmp_path / ".run.partial-1234").mkdir()
    assert len(accepted(tmp_path / "run")) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_demo_goes_on_whatever_its_run_lacks(tmp_path: Path) -> None:
    assert _finished_run(tmp_path / "absent", QUICK) is None
    (tmp_path / "empty").mkdir()
    assert _finished_run(tmp_path / "empty", QUICK) is None
    run = leave(tmp_path / "run", QUICK)
    assert _finished_run(run, QUICK) is None  # killed before the first score
    (run / "accuracy.jsonl").write_text('{"step": 0, "gree')
    assert _finished_run(run, QUICK) is None  # and while it was written
    with pytest.raises(InputError, match="finished run with other settings"):
        _finished_run(leave(tmp_path / "other", SETTINGS, completed=True), QUICK)
    (run / MARK).unlink()
    with pytest.raises(InputError, match="files that are not the demo's"):
        _finished_run(run, QUICK)
