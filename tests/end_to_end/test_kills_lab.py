"""SIGKILL in the lab: a study, a run and the demo, stopped anywhere, are finished by the same call."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from killing import finished, killed

from conftest import walk_weights
from driftline.checkpoints.trajectory import open_trajectory
from driftline.commands.demo import QUICK
from driftline.files.record import read_record
from driftline.lab.record import DemoScores, read_run, read_scores
from driftline.studies.rank import RankRecord

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore")]
_TRAINING = ["--steps", "4", "--save-every", "2", "--prompts-per-step", "2", "--held-out-problems", "16"]


def appears_anew(folder: Path, file: str) -> Callable[[], bool]:
    """Whether a folder has been made, or replaced since this was called, and has the file."""

    def identity() -> int | None:
        try:
            return folder.stat().st_ino
        except FileNotFoundError:
            return None

    before = identity()
    return lambda: identity() not in (None, before) and (folder / file).exists()


def without_leftovers(folder: Path) -> bool:
    return not [path for path in folder.rglob(".*") if ".partial" in path.name or ".old-" in path.name]


def test_study_killed_at_eight_moments_is_finished_by_the_same_call(
    make_run: Callable[..., Path], rng: np.random.Generator, tmp_path: Path
) -> None:
    """Also between the record and its page."""
    run = make_run(walk_weights(rng, list(range(0, 200, 10)), {"a": (400, 300)}, drift=0.3))

    def words(out: Path) -> list[str]:
        return ["study", "rank", "--quick", "--runs", str(run), "--out", str(out), "--quiet"]

    def complete(out: Path) -> None:
        assert len(read_record(out / "study.json", RankRecord, what="driftline study").rows) == 4
        assert (out / "report.html").read_text().rstrip().endswith("</html>")

    work = tmp_path / "work"
    whole = finished(words(tmp_path / "timed"))
    unfinished = kills = pageless = 0
    while kills < 8:
        out = work / str(kills)
        recorded = kills % 2 == 0
        once = appears_anew(out, "study.json") if recorded else lambda: True
        if not killed(words(out), 0.0 if recorded else rng.uniform(0.1, 1.0) * whole, once=once):
            shutil.rmtree(out)
            continue
        kills += 1
        if (out / "report.html").exists() and (out / "study.json").exists():
            complete(out)
            continue
        unfinished += 1
        pageless += (out / "study.json").exists()
        finished(words(out))
        complete(out)
    assert unfinished >= 3
    assert pageless >= 1
    assert without_leftovers(work)


def test_train_killed_at_seven_moments_begins_again_and_ends_as_if_never_stopped(tmp_path: Path) -> None:
    def words(out: Path) -> list[str]:
        return ["train", "--out", str(out), *_TRAINING, "--quiet"]

    def weights(out: Path) -> bytes:
        return (out / "checkpoint-4" / "model.safetensors").read_bytes()

    finished(words(tmp_path / "reference"))
    work = tmp_path / "work"
    out, again = work / "run", 0
    moments = [
        "run.json",
        "checkpoint-0",
        "accuracy.jsonl",
        "checkpoint-2",
        "checkpoint-2/model.safetensors",
        "run.json",
    ]
    for moment in [*moments, "checkpoint-4/model.safetensors"]:
        again += out.exists()
        killed(words(out), 0.0, once=appears_anew(out, moment))
        assert not out.exists() or (out / "run.json").is_file()
        if out.exists() and read_run(out).completed:
            shutil.rmtree(out)
    assert again >= 3
    if not (out.exists() and read_run(out).completed):
        finished(words(out))
    assert read_run(out).completed
    assert open_trajectory(out).steps == (0, 2, 4)
    assert [row.step for row in read_scores(out)] == [0, 2, 4]
    assert weights(out) == weights(tmp_path / "reference")
    assert without_leftovers(work)
    assert [path.name for path in work.iterdir()] == ["run"]


def test_the_demo_killed_in_every_stage_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    words = ["demo", "--quick", "--out", str(out), "--quiet"]
    stages = {
        "run": ["run.json", "accuracy.jsonl"],
        "analysis": ["summary.json"],
        "backtest": ["backtest.json"],
        "hindsight": ["driftline.json"],
        "forecast": ["driftline.json"],
        "hindsight-score": ["evaluation.json"],
    }
    kills = 0
    for stage, files in stages.items():
        for file in files:
            kills += killed(words, 0.0, once=appears_anew(out / stage, file))
            assert (out / "run" / "run.json").is_file()
        if stage == "run":
            assert not (out / "analysis").exists()
    assert kills == 7
    assert not (out / "scores.json").exists()
    finished(words)
    assert open_trajectory(out / "run").steps == tuple(range(0, 17, 2))
    assert read_run(out / "run").settings == QUICK
    scores = read_record(out / "scores.json", DemoScores, what="driftline demo")
    models = ["checkpoint-4", "checkpoint-4", "hindsight", "checkpoint-16", "forecast"]
    assert [Path(row.folder).name for row in scores.rows] == models
    assert json.loads((out / "backtest" / "backtest.json").read_text())["recommended_horizon"] >= 0
    assert without_leftovers(out)
