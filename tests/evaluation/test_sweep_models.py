"""The models that a sweep writes: deleted when scored, or kept; and the disk that they take."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from noisy_runs import noisy_run, request, swept

from driftline import models
from driftline.checkpoints.trajectory import Trajectory
from driftline.errors import InputError
from driftline.evaluation import candidates, disk
from driftline.evaluation.tasks import Task, open_task
from driftline.files.record import read_record
from driftline.writing.record import Recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Trajectory:
    return noisy_run(tmp_path_factory.mktemp("sweep") / "run", {0: 1.0, 60: 0.4})


@pytest.fixture(scope="module")
def task() -> Task:
    return open_task("sums", problems=24, seed=0)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The target of each model that is written, as it is."""
    found: list[float] = []
    write = candidates.write

    def noted(plan, forecasts, storage):
        found.extend(forecast.origin.target for forecast in forecasts.values())
        return write(plan, forecasts, storage)

    monkeypatch.setattr(candidates, "write", noted)
    return found


def size_of(model: Path) -> int:
    return sum(file.stat().st_size for file in model.glob("*.safetensors"))


def free(monkeypatch: pytest.MonkeyPatch, nbytes: float) -> None:
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda folder: SimpleNamespace(free=int(nbytes)))


def test_models_are_kept_with_their_recipes(run, task, tmp_path, written) -> None:
    said: list[str] = []
    record = swept(run, task, tmp_path / "out", request(80, 100), keep_models=True, observed=1, say=said.append)
    kept = tmp_path / "out-folder" / "models"
    assert sorted(path.name for path in kept.iterdir()) == ["step-100", "step-80"]
    assert [c["folder"] for c in record["candidates"]] == [
        str(tmp_path / "out" / "models" / f"step-{n}") for n in (80, 100)
    ]
    assert written == [80, 100]  # once, for all rounds and the controls
    for model in kept.iterdir():
        recipe = read_record(model / "driftline.json", Recipe, what="driftline extrapolate")
        assert model.name == f"step-{recipe.target:g}"
        assert models.load_model(model).num_parameters() > 0
    assert len(said) == 1
    assert "for 2 still to write" in said[0]
    assert [path.name for path in tmp_path.iterdir()] == ["out-folder"]


def test_without_being_kept_none_is_left(run, task, tmp_path) -> None:
    said: list[str] = []
    record = swept(run, task, tmp_path / "out", request(80), observed=1, say=said.append)
    assert [path.name for path in (tmp_path / "out-folder").iterdir()] == ["sweep.json"]
    assert "folder" not in record["candidates"][0]
    assert "one at a time and deleted when scored" in said[0]


class Stopped(Exception):
    pass


def stopping(at: str):
    def start(what: str, total: int):
        def advance(rows: int) -> None:
            if what == at:
                raise Stopped

        return advance

    return start


def test_a_stopped_sweep_writes_no_complete_model_again(run, task, tmp_path, written) -> None:
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        swept(run, task, out, request(80, 100), keep_models=True, observed=1, progress=stopping("forecast of step 100"))
    assert written == [80, 100]
    work = tmp_path / ".out.work" / "models"
    half_written = work / ".step-100.partial-abcd"
    half_written.mkdir()
    os.rename(work / "step-100" / "config.json", half_written / "config.json")
    for file in (work / "step-100").iterdir():
        file.unlink()
    (work / "step-100").rmdir()
    said: list[str] = []
    swept(run, task, out, request(80, 100), keep_models=True, observed=1, say=said.append)
    assert written == [80, 100, 100]
    assert "for 1 still to write" in said[0]
    assert sorted(path.name for path in (tmp_path / "out-folder" / "models").iterdir()) == ["step-100", "step-80"]


def test_models_are_kept_of_a_sweep_whose_samples_were_there_already(run, task, tmp_path, written) -> None:
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        swept(run, task, out, request(80, 100), observed=1, progress=stopping("forecast of step 100"))
    swept(run, task, out, request(80, 100), observed=1, keep_models=True)
    assert sorted(written) == [80, 80, 100, 100]
    assert sorted(path.name for path in (tmp_path / "out-folder" / "models").iterdir()) == ["step-100", "step-80"]


def test_models_are_not_kept_of_a_sweep_that_goes_on_without(run, task, tmp_path) -> None:
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        swept(run, task, out, request(80), keep_models=True, observed=1, progress=stopping("forecast of step 80"))
    swept(run, task, out, request(80), observed=1)
    assert [path.name for path in (tmp_path / "out-folder").iterdir()] == ["sweep.json"]


@pytest.mark.parametrize(("keep", "models_that_fit"), [(False, 1), (True, 3)])
def test_a_disk_that_is_too_full_is_refused_before_anything_is_scored(
    run, task, tmp_path, monkeypatch, written, keep, models_that_fit
) -> None:
    one = size_of(run.folders[-1])
    free(monkeypatch, (models_that_fit - 0.5) * one)
    with pytest.raises(InputError, match="free, and") as refused:
        swept(run, task, tmp_path / "out", request(80, 100, 120), keep_models=keep, observed=1)
    assert str(tmp_path) in str(refused.value)
    assert ("leave --keep-models out" in str(refused.value)) is keep
    assert written == []
    assert [path.name for path in tmp_path.iterdir()] == ["out-folder"]
    free(monkeypatch, (models_that_fit + 0.5) * one)
    swept(run, task, tmp_path / "out", request(80, 100, 120), keep_models=keep, observed=1)


def test_the_disk_that_is_asked_for_is_what_a_model_takes(run, task, tmp_path, monkeypatch) -> None:
    said: list[float] = []

    def noted(count: float) -> str:
        said.append(count)
        return "some"

    monkeypatch.setattr(disk, "in_bytes", noted)
    swept(run, task, tmp_path / "out", request(80), keep_models=True, observed=1)
    one = size_of(tmp_path / "out-folder" / "models" / "step-80")
    assert said[0] == said[1] == pytest.approx(one, rel=0.01)
