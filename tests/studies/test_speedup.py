"""The speed-up study: counted right on curves that are known, and run from end to end."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lab_like import write_run

from driftline.errors import InputError
from driftline.lab.settings import LabRun
from driftline.report import study as page
from driftline.studies import curves, speedup
from driftline.studies.record import Findings
from driftline.studies.study import run_study


def curve(folder: Path, rate: float, seed: int, pace: float, **schedule: Any) -> Path:
    """A run whose accuracy climbs from .3 by `pace` a step, up to .95, two seconds a step."""
    settings = LabRun(learning_rate=rate, seed=seed, **schedule)
    return write_run(folder, settings, range(0, 101, 4), lambda step: min(0.3 + pace * step, 0.95))


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Path]:
    """Standard RL is twice as fast at the rate 2 as at 1; re-grounding three times as fast at 1, and fails at 2."""
    found = {}
    for seed in range(3):
        for rate, schedule, pace in (
            (1, {}, 0.01),
            (2, {}, 0.02),
            (1, {"m": 5, "n": 5}, 0.03),
            (2, {"m": 5, "n": 5}, 0.0),
        ):
            label = f"{rate}-{len(schedule)}-{seed}"
            found[label] = curve(tmp_path / "runs" / label, rate, seed, pace, **schedule)
    return found


def row(found: Findings, schedule: str, rate: float, threshold: float) -> Any:
    return next(r for r in found.rows if (r["schedule"], r["rate"], r["threshold"]) == (schedule, rate, threshold))


def test_speedups_are_counted_at_the_same_rate_and_between_the_best(runs: dict[str, Path]) -> None:
    found = speedup.measure(runs, quick=False)
    assert row(found, "standard", 1, 0.6)["steps"] == pytest.approx(30)
    assert row(found, "standard", 1, 0.6)["seconds"] == pytest.approx(60)
    assert row(found, "5+5", 1, 0.6)["speedup_same_rate"] == pytest.approx(3)
    assert row(found, "5+5", 2, 0.6)["steps"] is None
    assert row(found, "5+5", 2, 0.6)["speedup_same_rate"] == 0
    best = next(b for b in found.more["best"] if (b["schedule"], b["threshold"]) == ("5+5", 0.6))
    assert best["rate"] == 1
    assert best["speedup_steps"] == pytest.approx(1.5)  # three times as fast at 1, against standard RL at 2
    assert best["speedup_by_seed"] == pytest.approx({"0": 1.5, "1": 1.5, "2": 1.5})
    assert "faster for every seed" in found.sentences[0]
    assert "at the same learning rate at most 3.00x (5+5 at 1)" in found.sentences[0]


def test_a_score_that_is_lost_again_does_not_count() -> None:
    steps = np.arange(0, 28, 4.0)
    values = np.array([0.3, 0.7, 0.5, 0.5, 0.7, 0.7, 0.7])
    found = curves.Curve("standard", 1, 0, steps, values, steps, 0)
    assert curves.reached(found, 0.6) == pytest.approx((14, 14))
    assert curves.reached(found, 0.8) == (np.inf, np.inf)


def test_runs_without_a_baseline_or_that_are_no_runs_are_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run of standard RL"):
        speedup.measure({"a": runs["1-2-0"]}, quick=False)
    with pytest.raises(InputError, match="is no finished run of driftline train"):
        speedup.measure({"a": tmp_path}, quick=False)


def test_a_study_of_given_runs_is_written_once(runs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "study"
    record = run_study("speedup", out, runs=[str(folder) for folder in runs.values()])
    written = json.loads((out / "study.json").read_text())
    assert written["study"] == "speedup"
    assert written["quick"] is False
    assert record is not None
    assert written["findings"] == record.findings
    assert {"schedule", "rate", "threshold", "steps", "seconds"} <= written["rows"][0].keys()
    assert run_study("speedup", out, runs=[str(folder) for folder in runs.values()]) == record  # it has no page yet
    page.write(out, record, command="driftline study speedup")
    with pytest.raises(InputError, match="holds a finished study"):
        run_study("speedup", out, runs=[str(folder) for folder in runs.values()])
    with pytest.raises(InputError, match="of another request"):
        run_study("speedup", out, runs=[str(runs["1-0-0"])])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(InputError, match="not a study's"):
        run_study("speedup", tmp_path / "other", runs=[str(runs["1-0-0"])], overwrite=True)


def test_the_full_plan_compares_every_schedule_alike() -> None:
    plan = speedup.plan(quick=False)
    assert len(plan) == len(speedup.SCHEDULES) * len(speedup.RATES) * len(speedup.SEEDS)
    shapes = {(settings.steps, settings.completions_per_step, settings.score_every) for settings in plan.values()}
    assert len(shapes) == 1
    assert all(isinstance(settings, LabRun) for settings in plan.values())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_quick_study_trains_resumes_and_draws(tmp_path: Path) -> None:
    out = tmp_path / "out"
    said: list[str] = []
    record = run_study("speedup", out, quick=True, say=said.append)
    assert record is not None
    assert said == ["run 1 of 2: standard, 1e-05, seed 0", "run 2 of 2: 4+4, 1e-05, seed 0"]
    page.write(out, record, command="driftline study speedup")
    assert "Each at its best learning rate" in (out / "report.html").read_text()
    (out / "study.json").unlink()  # as if stopped before the end
    trained = json.loads((out / "runs" / "4+4, 1e-05, seed 0" / "run.json").read_text())
    (out / "runs" / "4+4, 1e-05, seed 0" / "run.json").write_text(json.dumps(trained | {"completed": False}))
    said.clear()
    run_study("speedup", out, quick=True, say=said.append)
    assert said == ["run 1 of 1: 4+4, 1e-05, seed 0"]
