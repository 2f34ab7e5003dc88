"""Records of lab runs and of the demo: those of the former release are read, and written with the same keys."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from msgspec import to_builtins

from driftline.checkpoints.jumps import read_jumps
from driftline.errors import InputError
from driftline.files.record import read_record, record_text
from driftline.lab.record import DemoScores, finished, read_run, read_scores, stopped
from driftline.lab.settings import LabRun

FORMER = Path(__file__).parents[1] / "records" / "former"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    shutil.copy(FORMER / "train.json", tmp_path / "run.json")
    shutil.copy(FORMER / "train-accuracy.jsonl", tmp_path / "accuracy.jsonl")
    return tmp_path


@pytest.mark.parametrize("name", ["train", "train-regrounded"])
def test_a_former_run_is_read_and_written_the_same(tmp_path: Path, name: str) -> None:
    shutil.copy(FORMER / f"{name}.json", tmp_path / "run.json")
    shutil.copy(FORMER / f"{name}-accuracy.jsonl", tmp_path / "accuracy.jsonl")
    shutil.copy(FORMER / "train-jumps.json", tmp_path / "jumps.json")
    assert json.loads(record_text(read_run(tmp_path))) == json.loads((FORMER / f"{name}.json").read_text())
    former = [json.loads(line) for line in (FORMER / f"{name}-accuracy.jsonl").read_text().splitlines()]
    assert [to_builtins(row) for row in read_scores(tmp_path)] == former
    assert [list(to_builtins(row)) for row in read_scores(tmp_path)] == [list(row) for row in former]
    assert read_jumps(tmp_path)


def test_former_scores_of_the_demo_are_read_and_written_the_same() -> None:
    file = FORMER / "demo-scores.json"
    record = read_record(file, DemoScores, what="driftline demo")
    assert json.loads(record_text(record)) == json.loads(file.read_text())


def test_a_run_is_finished_or_stopped_by_its_own_settings_alone(run: Path) -> None:
    settings = read_run(run).settings
    assert (finished(run, settings), stopped(run, settings)) == (True, False)
    assert (finished(run, LabRun()), stopped(run, LabRun())) == (False, False)
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"completed": False}))
    assert (finished(run, settings), stopped(run, settings)) == (False, True)
    assert (finished(run, LabRun()), stopped(run, LabRun())) == (False, False)
    assert (finished(run / "absent", settings), stopped(run / "absent", settings)) == (False, False)


def test_what_is_no_record_of_a_run_is_refused(run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"more": 1}))
    with pytest.raises(InputError, match="unknown field `more`"):
        read_run(run)
    (run / "run.json").write_text(json.dumps(record | {"settings": record["settings"] | {"tempo": 1}}))
    with pytest.raises(InputError, match="the setting 'tempo', which is unknown"):
        read_run(run)
    (run / "run.json").write_text("{")
    with pytest.raises(InputError, match="make it again"):
        read_run(run)


def test_a_torn_last_score_is_left_out_and_others_are_not(run: Path) -> None:
    whole = (run / "accuracy.jsonl").read_text()
    rows = read_scores(run)
    (run / "accuracy.jsonl").write_text(whole + '{"step": 99, "gre')
    assert read_scores(run) == rows
    (run / "accuracy.jsonl").write_text('{"step": 99}\n' + whole)
    with pytest.raises(InputError, match="is not what driftline train writes"):
        read_scores(run)
    (run / "accuracy.jsonl").unlink()
    with pytest.raises(InputError, match="holds no scores"):
        read_scores(run)
