"""Sweeps in which checkpoints of the run are candidates, alone or beside targets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import to_builtins
from noisy_runs import SETTINGS, colder_run, noisy_run, request, swept

from driftline.checkpoints.trajectory import Trajectory
from driftline.errors import InputError
from driftline.evaluation.records import SweepRecord
from driftline.evaluation.sharpening import judge
from driftline.evaluation.tasks import Task, open_task
from driftline.files.record import read_record
from driftline.report import sweep as page


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Trajectory:
    """A run that gets better in a straight line until step 100, and then worse again."""
    noise = {0: 1.0, 60: 0.4, 100: 0.0, 130: 0.5, 160: 0.7, 200: 1.0}
    return noisy_run(tmp_path_factory.mktemp("sweep") / "run", noise)


@pytest.fixture(scope="module")
def task() -> Task:
    return open_task("sums", problems=48, seed=0)


def kinds(record: SweepRecord) -> list[tuple[str, int, int]]:
    return [(c["kind"], c["step"], c["problems"]) for c in record["candidates"]]


def test_the_best_checkpoint_is_found_without_scoring_them_all(run, task, tmp_path) -> None:
    drawn: dict[str, int] = {}

    def count(what: str, total: int):
        drawn[what] = drawn.get(what, 0) + total
        return lambda rows: None

    out = tmp_path / "out"
    record = swept(run, task, out, request(), tried=run.steps, progress=count)
    folder = tmp_path / "out-folder"
    assert record == read_record(folder / "sweep.json", SweepRecord, what="driftline sweep")
    assert "forecast" not in record
    assert to_builtins(record.rounds) == [
        {"candidates": 5, "problems": 16},
        {"candidates": 3, "problems": 24},
        {"candidates": 2, "problems": 48},
    ]
    assert sorted(seen for _, _, seen in kinds(record)) == [16, 16, 24, 48, 48]
    assert {step for kind, step, _ in kinds(record) if kind == "checkpoint"} == {0, 60, 100, 130, 160}
    assert [(c["step"], c["problems"]) for c in record["observed"]] == [(200, 48)]  # the others are candidates
    assert drawn == {
        "checkpoint of step 200": 48,
        **{f"checkpoint of step {step}": seen for _, step, seen in kinds(record)},
        "controls": 0,
    }
    best = record["best"]
    assert (best["kind"], best["step"], best["baseline"], best["better"]) == ("checkpoint", 100, 200, True)
    assert best["p_value_corrected"] == pytest.approx(5 * best["difference"]["p_value"])
    assert Path(str(record.winner.folder)) == run.folders[2]
    assert record["sentence"].startswith(
        f"Take the checkpoint of step 100: it scores {record.winner.avg_at_k:.3f} against {record.observed[0].avg_at_k:.3f} of"
    )
    assert "of the checkpoint of step 200 (p = 0.001 after counting 5 checkpoints tried)" in record["sentence"]
    assert record["control"]["sentence"].startswith("the checkpoint of step 100 scores")
    assert [path.name for path in tmp_path.iterdir()] == ["out-folder"]

    page.write(folder, record, command="driftline sweep")
    written = (folder / "report.html").read_text()
    for said in (
        "checkpoints, all problems",
        "checkpoints that dropped out",
        "step of the best checkpoint",
        "5 checkpoints tried",
        "what kind of gain that is",
    ):
        assert said in written
    assert "forecasts, all" not in written


def test_checkpoints_and_targets_are_candidates_of_one_sweep(run, task, tmp_path) -> None:
    """Up to step 60 is used: the forecast of step 100 is the model that the checkpoint of step 100 is."""
    record = swept(run, task, tmp_path / "out", request(100, 200, seen=(0, 60)), tried=(0, 60, 100, 130), observed=1)
    assert [(kind, step) for kind, step, _ in kinds(record)] == [
        ("checkpoint", 0),
        ("checkpoint", 100),
        ("checkpoint", 130),
        ("forecast", 100),
        ("forecast", 200),
    ]
    assert [c["step"] for c in record["observed"]] == [60]
    scores = {(c["kind"], c["step"]): c["avg@k"] for c in record["candidates"]}
    assert scores["checkpoint", 100] == scores["forecast", 100]
    assert (record["best"]["kind"], record["best"]["step"]) == ("checkpoint", 100)  # what is there already, of equals
    assert record.winner["kind"] == "checkpoint"
    assert record["best"]["p_value_corrected"] == pytest.approx(5 * record["best"]["difference"]["p_value"])
    assert "after counting 5 candidates tried" in record["sentence"]
    page.write(tmp_path / "out-folder", record, command="driftline sweep")
    written = (tmp_path / "out-folder" / "report.html").read_text()
    assert "2 forecasts and 3 checkpoints tried" in written
    assert "forecasts, all problems" in written


def test_the_best_of_both_kinds_may_be_a_forecast(run, task, tmp_path) -> None:
    record = swept(run, task, tmp_path / "out", request(100, seen=(0, 60)), tried=(0, 160), observed=1)
    assert (record["best"]["kind"], record["best"]["step"], record["best"]["better"]) == ("forecast", 100, True)
    assert record["sentence"].startswith("Use the forecast of step 100")
    assert "folder" not in record.winner


def test_a_last_checkpoint_that_is_best_is_kept(run, task, tmp_path) -> None:
    record = swept(run, task, tmp_path / "out", request(seen=(0, 100)), tried=run.steps)
    assert (record["best"]["baseline"], record["best"]["better"]) == (100, False)
    assert record["sentence"].startswith("Keep step 100: the best other checkpoint, of step")
    assert record["late"]["step"] == 100


def test_a_checkpoint_that_is_only_surer_is_taken_and_said_to_be(task, tmp_path) -> None:
    run = colder_run(tmp_path / "run", {0: 0.5, 50: 2.0, 100: 1.0})
    sampled = replace(SETTINGS, temperature=1.5, samples=4)
    record = swept(run, task, tmp_path / "out", request(), sampled, tried=run.steps)
    best, control = record["best"], record["control"]
    assert (best["step"], best["better"], best["surer"]) == (50, True, True)
    assert control["late_matched"]["temperature"] == pytest.approx(0.75, rel=1e-3)
    assert control["verdict"] == judge(control["gain"], control["beyond_sharpening"], 2) == "sharpening"
    beyond = control["beyond_sharpening"]["p_value"]
    assert best["beyond_p_value_corrected"] == min(2 * beyond, 1)
    assert record["sentence"].startswith("Take the checkpoint of step 50: it scores")
    assert "being surer of its tokens is not told from chance" in record["sentence"]
    assert "at temperature 0.75 step 100 scores" in record["sentence"]


@pytest.mark.parametrize(
    ("asked", "more", "complaint"),
    [
        (request(), {}, "nothing to score: give --to for forecasts, --checkpoints"),
        (request(), {"tried": (200,)}, "--checkpoints names only step 200, the last one used"),
        (request(seen=(0, 60)), {"tried": (60,)}, "--checkpoints names only step 60, the last one used"),
        (request(seen=(0, 7)), {"tried": (60,)}, "--from 7: not in the run"),
    ],
)
def test_bad_requests_are_refused(run, task, tmp_path, asked, more, complaint) -> None:
    with pytest.raises(InputError, match=complaint):
        swept(run, task, tmp_path / "out", asked, **more)
    assert [path.name for path in tmp_path.iterdir()] == ["out-folder"]
