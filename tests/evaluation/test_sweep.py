"""Sweeps over a run whose best forecast is known: weights that lose their noise in a straight line."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec import to_builtins
from msgspec.structs import asdict
from msgspec.structs import replace as replaced
from noisy_runs import SETTINGS, colder_run, noisy_run, request, swept

from driftline.checkpoints.trajectory import Trajectory
from driftline.errors import InputError
from driftline.evaluation.candidates import spread
from driftline.evaluation.records import SweepRecord
from driftline.evaluation.sweep import schedule
from driftline.evaluation.tasks import Task, open_task
from driftline.files.record import read_record
from driftline.forecast.request import ForecastRequest
from driftline.report import sweep as page

EVIL = "<script>alert(1)</script>"
CLEAN = 100  # the step at which the noise would be gone


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Trajectory:
    """Checkpoints 0, 30 and 60: the lab's base with noise in proportion to 100 - step."""
    noise = {step: 1 - step / CLEAN for step in (0, 30, 60)}
    return noisy_run(tmp_path_factory.mktemp("sweep") / "run", noise)


@pytest.fixture(scope="module")
def task() -> Task:
    return open_task("sums", problems=48, seed=0)


@pytest.mark.parametrize(
    ("candidates", "problems", "rounds"),
    [
        (1, 100, [(1, 100)]),
        (2, 100, [(2, 100)]),
        (3, 100, [(3, 50), (2, 100)]),
        (8, 128, [(8, 32), (4, 64), (2, 128)]),
        (9, 64, [(9, 16), (5, 16), (3, 32), (2, 64)]),  # never below 16 problems
        (5, 10, [(5, 10), (3, 10), (2, 10)]),
    ],
)
def test_rounds_halve_the_candidates_and_double_the_problems(candidates, problems, rounds) -> None:
    assert [(r.candidates, r.problems) for r in schedule(candidates, problems)] == rounds


def test_observed_checkpoints_are_spread_with_the_last_used_among_them() -> None:
    steps = list(range(0, 110, 10))
    assert spread(steps, 3, 100) == [0, 50, 100]
    assert spread(steps, 3, 60) == [0, 60, 100]
    assert spread(steps, 1, 60) == [60]
    assert spread(steps, 99, 60) == steps
    assert spread([5], 4, 5) == [5]


def test_the_planted_optimum_is_found(run, task, tmp_path) -> None:
    out = tmp_path / "out"
    record = swept(run, task, out, request(200, CLEAN, 150))
    folder = tmp_path / "out-folder"
    assert record == read_record(folder / "sweep.json", SweepRecord, what="driftline sweep")
    assert to_builtins(record.rounds) == [{"candidates": 3, "problems": 24}, {"candidates": 2, "problems": 48}]
    scores = {c["step"]: c["avg@k"] for c in record["candidates"]}
    assert scores[CLEAN] > 0.95
    assert scores[200] < 0.2
    assert {c["step"]: c["problems"] for c in record["candidates"]} == {CLEAN: 48, 150: 48, 200: 24}
    assert [c["step"] for c in record["observed"]] == [0, 30, 60]
    best, last = record["best"], record["observed"][-1]
    assert (best["step"], best["baseline"], best["better"]) == (CLEAN, 60, True)
    assert best["difference"]["mean"] == pytest.approx(scores[CLEAN] - last["avg@k"])
    assert best["p_value_corrected"] == pytest.approx(3 * best["difference"]["p_value"])
    assert record["sentence"].startswith("Use the forecast of step 100: it scores")
    assert record["control"]["verdict"] == "gain"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out-folder"]  # neither work nor forecasts are left

    page.write(folder, replaced(record, run=EVIL), command=f"driftline sweep {EVIL}")
    written = (folder / "report.html").read_text()
    assert 'id="scores"' in written
    body = written.split("</style>", 1)[1].split("</script>", 1)[1]
    assert EVIL not in body
    assert "&lt;script&gt;alert(1)" in body
    for reference in ("src=", "href=", "@import"):
        assert reference not in body


class Stopped(Exception):
    pass


def test_a_stopped_sweep_goes_on(run, task, tmp_path) -> None:
    whole = swept(run, task, tmp_path / "whole", request(CLEAN, 150, 200))
    counts: dict[str, list[int]] = {"first": [], "second": []}

    def stop(what: str, total: int):
        if len(counts["first"]) == 5:
            raise Stopped
        counts["first"].append(total)
        return lambda rows: None

    def count(what: str, total: int):
        counts["second"].append(total)
        return lambda rows: None

    with pytest.raises(Stopped):
        swept(run, task, tmp_path / "out", request(CLEAN, 150, 200), progress=stop)
    assert not (tmp_path / "out-folder" / "sweep.json").exists()
    record = swept(run, task, tmp_path / "out", request(CLEAN, 150, 200), progress=count)
    assert counts["first"] == [48, 48, 48, 24, 24]  # the observed, and two candidates of the first round
    assert counts["second"] == [24, 24, 24, 0]  # last the late model beside the best, whose samples are there
    assert replaced(record, seconds=0) == replaced(whole, seconds=0)


def test_forecasts_that_are_no_better_are_not_recommended(run, task, tmp_path) -> None:
    record = swept(run, task, tmp_path / "out", request(300, 400))
    assert not record["best"]["better"]
    assert record["sentence"].startswith("Keep step 60: the best forecast")
    page.write(tmp_path / "out-folder", record, command="driftline sweep")
    assert 'class="verdict no"' in (tmp_path / "out-folder" / "report.html").read_text()


def test_logits_are_swept(run, task, tmp_path) -> None:
    sampled = replace(SETTINGS, temperature=0.6, samples=2)
    record = swept(run, task.first(24), tmp_path / "out", request(80, 120), sampled, output_space=True, observed=1)
    assert record["space"] == "logits"
    assert [c["step"] for c in record["observed"]] == [60]
    control = record["control"]
    assert asdict(control["late"]).items() <= asdict(record["observed"][0]).items()  # the same samples
    assert control["verdict"] in ("gain", "sharpening", "loss", "nothing")
    assert set(control["greedy"]) == {"forecast", "late"}
    assert control["late_matched"]["temperature"] > 0
    page.write(tmp_path / "out-folder", record, command="driftline sweep")
    written = (tmp_path / "out-folder" / "report.html").read_text()
    assert "Better, or only surer?" in written
    assert "pass@2" in written


def test_a_forecast_that_is_only_surer_is_not_recommended(task, tmp_path) -> None:
    """Weights whose last layer grows in a straight line: every forecast is the same model, at a lower temperature."""
    run = colder_run(tmp_path / "run", {step: 0.5 + step / 100 for step in (0, 50, 100)})
    sampled = replace(SETTINGS, temperature=1.5, samples=4)
    record = swept(run, task, tmp_path / "out", request(200), sampled, observed=1)
    control = record["control"]
    assert control["late_matched"]["temperature"] == pytest.approx(1.5 * 1.5 / 2.5, rel=1e-3)
    assert control["gain"]["p_value"] < 0.001
    assert control["verdict"] == "sharpening"
    assert not record["best"]["better"]
    assert record["sentence"].startswith("Keep step 100, at temperature 0.9, where it scores")


@pytest.mark.parametrize(
    ("asked", "more", "complaint"),
    [
        (request(60), {}, "--to 60 is not beyond the observed steps"),
        (request(60), {"output_space": True}, "--to 60 is not beyond the late checkpoint, step 60"),
        (replace(request(90), seen=(0, 7)), {"output_space": True}, "--from 7: not in the run"),
        (replace(request(90), seen=(30,)), {"output_space": True}, "one checkpoint .step 30. makes no line"),
        (request(90), {"observed": 0}, "--observed is 0"),
        (ForecastRequest(targets=(90,), method="magic"), {}, "magic"),
    ],
)
def test_bad_requests_are_refused(run, task, tmp_path, asked, more, complaint) -> None:
    with pytest.raises(InputError, match=complaint):
        swept(run, task, tmp_path / "out", asked, **more)
    assert [path.name for path in tmp_path.iterdir()] == ["out-folder"]
