"""A study that was stopped at any point of its writing is finished by the same call."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import walk_weights
from driftline.commands.requests import make
from driftline.commands.study import Study, run
from driftline.errors import InputError
from driftline.report import study as page
from driftline.studies import rank, weight_targets


class Stopped(Exception):
    """As if the process had been killed."""


def stop(*given: Any, **named: Any) -> None:
    raise Stopped


@pytest.fixture
def measured(make_run: Callable[..., Path], rng: np.random.Generator) -> Path:
    return make_run(walk_weights(rng, list(range(0, 100, 10)), {"a": (40, 30)}, drift=0.3))


@pytest.fixture
def request_of(measured: Path, tmp_path: Path) -> Callable[..., Study]:
    def request(**options: Any) -> Study:
        return make(Study, **{"name": "rank", "out": tmp_path / "out", "runs": str(measured), "quiet": True, **options})

    return request


def result(out: Path) -> dict[str, Any]:
    assert "</html>" in (out / "report.html").read_text()
    return json.loads((out / "study.json").read_text())


def test_a_missing_page_is_written_from_the_record(request_of: Callable[..., Study], tmp_path: Path) -> None:
    request, out = request_of(), tmp_path / "out"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(page, "write", stop)
        with pytest.raises(Stopped):
            run(request)
    before = (out / "study.json").read_bytes()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rank, "measure", stop)  # nothing is measured again
        run(request)
    assert (out / "study.json").read_bytes() == before
    assert result(out)["study"] == "rank"
    with pytest.raises(InputError, match="holds a finished study"):
        run(request)


def test_a_study_that_was_stopped_while_it_measured_goes_on(request_of: Callable[..., Study], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rank, "measure", stop)
        with pytest.raises(Stopped):
            run(request_of())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["request.json"]
    run(request_of())
    assert result(tmp_path / "out")["rows"]


def test_no_page_of_a_former_result_stands_beside_a_new_one(request_of: Callable[..., Study], tmp_path: Path) -> None:
    run(request_of())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(page, "write", stop)
        with pytest.raises(Stopped):
            run(request_of(overwrite=True))
    assert not (tmp_path / "out" / "report.html").exists()
    run(request_of())
    result(tmp_path / "out")


def test_no_result_of_another_request_is_taken_for_this_ones(request_of: Callable[..., Study], tmp_path: Path) -> None:
    run(request_of())
    other = {"name": "filter-bias", "quick": True}
    with pytest.raises(InputError, match="the study 'rank' of another request"):
        run(request_of(**other))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("driftline.studies.filter_bias.measure", stop)
        with pytest.raises(Stopped):
            run(request_of(**other, overwrite=True))
    run(request_of(**other))
    assert result(tmp_path / "out")["study"] == "filter-bias"


def test_an_empty_folder_is_taken_and_another_is_not(request_of: Callable[..., Study], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / ".out.partial-1234").mkdir()  # of a process that was killed
    run(request_of())
    assert not (tmp_path / ".out.partial-1234").exists()
    (out / "request.json").write_text("{")
    with pytest.raises(InputError, match="is not what driftline study writes"):
        run(request_of())
    (out / "request.json").unlink()
    with pytest.raises(InputError, match="not a study's"):
        run(request_of())


def test_forecasts_that_a_stopped_study_left_half_removed_are_made_again(tmp_path: Path) -> None:
    left = tmp_path / ".run.forecasts"
    (left / "checkpoint-9").mkdir(parents=True)
    with weight_targets.scratch_of(tmp_path / "run") as scratch:
        assert not scratch.exists()
    assert not left.exists()
