"""Where a study's runs are trained, and what it leaves: by an engine, under several processes, after a stop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lab_like import write_run

from driftline.engines import LocalEngine
from driftline.files.record import Record
from driftline.lab.settings import LabRun
from driftline.studies import study
from driftline.studies.record import Findings, StudyRecord
from driftline.studies.study import lab_runs, run_study

PLAN = {f"seed {seed}": LabRun(steps=4, seed=seed) for seed in range(3)}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the runs that are trained; each is finished at once."""
    names: list[str] = []

    def train(out: Path, settings: LabRun, *, overwrite: bool) -> None:
        names.append(out.name)
        write_run(out, settings)

    monkeypatch.setattr("driftline.lab.run.train", train)
    return names


class Backwards(LocalEngine):
    """Finishes its items in another order, as a cluster may."""

    def map_models(
        self, function: Callable[..., Any], items: Iterable[Any], start: Callable[..., Any]
    ) -> Iterator[tuple[Any, Any]]:
        return super().map_models(function, list(items)[::-1], start)


def test_an_engine_trains_what_is_missing(tmp_path: Path, trained: list[str]) -> None:
    said: list[str] = []
    folders = lab_runs(tmp_path, {"seed 1": PLAN["seed 1"]}, said.append)
    assert lab_runs(tmp_path, PLAN, said.append, Backwards()).keys() == PLAN.keys()
    assert trained == ["seed 1", "seed 2", "seed 0"]
    assert said == ["run 1 of 1: seed 1", "run 2 of 2: seed 2", "run 1 of 2: seed 0"]
    assert folders == {"seed 1": tmp_path / "seed 1"}


def test_of_several_processes_the_first_alone_measures(
    tmp_path: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Row(Record):
        runs: int

    class OfRows(StudyRecord):
        rows: list[Row]

    class Named:
        RECORD = OfRows
        plan = staticmethod(lambda quick, task: PLAN)
        measure = staticmethod(lambda runs, quick: Findings([Row(runs=len(runs))], ["found"]))

    monkeypatch.setattr(study, "experiment_named", lambda name: Named)
    monkeypatch.setenv("RANK", "1")
    assert run_study("rank", tmp_path / "other", quick=True) is None
    assert len(trained) == 3
    assert not (tmp_path / "other" / "study.json").exists()
    monkeypatch.setenv("RANK", "0")
    record = run_study("rank", tmp_path / "out", quick=True)
    assert record is not None
    assert record.rows == [Row(runs=3)]
    assert (tmp_path / "out" / "study.json").exists()
