"""What a sweep says to do next: write the forecast, confirm the pair, sample colder, or look elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from conftest import walk_weights
from driftline.commands.requests import command_line, make
from driftline.commands.sweep import Sweep, next_steps, run
from driftline.errors import InputError
from driftline.evaluation.records import UNSET, Control, MatchedFigures, ModelAtStep, SweepRecord
from driftline.files.record import read_record

FORMER = Path(__file__).parents[1] / "records" / "former" / "sweep.json"


def found(space: str, *, better: bool, surer: bool) -> SweepRecord:
    """A sweep of checkpoints 0 to 100 whose best target is step 150."""
    record = read_record(FORMER, SweepRecord, what="driftline sweep")
    matched: MatchedFigures = replace(record.control.late_matched, temperature=0.54321)
    control: Control = replace(record.control, late_matched=matched)
    return replace(
        record,
        space=space,
        early=ModelAtStep(step=0, folder="r/checkpoint-0"),
        late=ModelAtStep(step=100, folder="r/checkpoint-100"),
        candidates=[replace(record.candidates[0], step=150)],
        best=replace(record.best, step=150, baseline=100, better=better, surer=surer),
        control=control,
    )


@pytest.mark.parametrize(
    ("space", "better", "surer", "expected"),
    [
        ("weights", True, False, "extrapolate 'a run' --out s-step-150 --to 150 --method damped"),
        (
            "logits",
            True,
            False,
            "evaluate --task sums --out s-confirm --early r/checkpoint-0 --late r/checkpoint-100 --alpha 1.5 --samples 2 "
            "--temperature 1 --seed 4",
        ),
        (
            "weights",
            False,
            True,
            "evaluate r/checkpoint-100 --task sums --out s-colder --samples 2 --temperature 0.543 --seed 4",
        ),
        ("logits", False, False, "backtest 'a run' --out s-backtest"),
    ],
)
def test_what_to_do_next(space: str, better: bool, surer: bool, expected: str) -> None:
    asked = {"run": "a run", "to": "150", "task": "sums", "samples": 2, "seed": 3, "temperature": 1.0}
    request = make(Sweep, **asked, method="damped", out="s")
    (step,) = next_steps(found(space, better=better, surer=surer), request)
    assert command_line(step.request) == f"driftline {expected}"
    assert step.why


@pytest.mark.parametrize(
    ("kind", "folder"), [("checkpoint", "r/checkpoint-50"), ("forecast", "s/models/step-150")], ids=str
)
def test_a_best_that_has_a_folder_is_confirmed_beside_the_last_checkpoint(kind: str, folder: str) -> None:
    record = found("weights", better=True, surer=kind == "checkpoint")
    record = replace(
        record,
        best=replace(record.best, kind=kind, step=50),
        candidates=[
            replace(record.candidates[0], kind="forecast" if kind == "checkpoint" else "checkpoint", step=50),
            replace(record.candidates[0], kind=kind, step=50, folder=folder),
        ],
    )
    request = make(Sweep, run="r", checkpoints="all", task="sums", samples=2, seed=3, temperature=1.0, out="s")
    (step,) = next_steps(record, request)
    assert command_line(step.request) == (
        f"driftline evaluate {folder} --task sums --out s-confirm --samples 2 --temperature 1 --seed 4 --beside r/checkpoint-100"
    )


@pytest.mark.parametrize(
    ("backend", "expected"),
    [
        ({"backend": "vllm", "dtype": "bfloat16"}, " --backend vllm --dtype bfloat16"),
        ({"backend": "http", "endpoint": "http://h/v1", "model_": "m-{step}"}, ""),
    ],
)
def test_it_is_confirmed_by_what_can_load_folders(backend: dict[str, str], expected: str) -> None:
    record = found("weights", better=False, surer=True)
    request = make(Sweep, run="r", to="150", task="sums", out="s", **backend)
    (step,) = next_steps(record, request)
    assert command_line(step.request) == (
        f"driftline evaluate r/checkpoint-100 --task sums --out s-colder --samples 4 --temperature 0.543 --seed 1{expected}"
    )


def test_where_no_checkpoint_is_better_it_is_said_so() -> None:
    record = replace(found("weights", better=False, surer=False), forecast=UNSET)
    (step,) = next_steps(record, make(Sweep, run="r", checkpoints="all", task="sums", out="s"))
    assert step.why.startswith("No other checkpoint beat the last checkpoint.")


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({}, "nothing to score: give --to for forecasts, --checkpoints for checkpoints of the run, or both"),
        ({"checkpoints": "all", "output_space": True}, "--output-space is of forecasts"),
        ({"checkpoints": "all", "method": "damped"}, "--method is of forecasts"),
        ({"checkpoints": "all", "keep_models": True}, "--keep-models is of forecasts"),
        ({"to": "9", "keep_models": True, "output_space": True}, "--keep-models keeps forecasts in weights"),
    ],
)
def test_contradictions_are_refused_before_the_run_is_read(asked: dict[str, object], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        run(make(Sweep, run="nowhere", task="sums", out="s", **asked))


@pytest.mark.parametrize(
    ("checkpoints", "complaint"),
    [
        ("7", "step 7 is not in the run: choose among the steps 0, 10, 20"),
        ("some", "--checkpoints 'some' is neither"),
        ("1:9:1", "--checkpoints 1:9:1 selects no checkpoint"),
        ([20], "--checkpoints names only step 20, the last one used"),
    ],
)
def test_checkpoints_are_those_of_the_run(
    make_run: Callable[..., Path], rng: np.random.Generator, tmp_path: Path, checkpoints: object, complaint: str
) -> None:
    made = make_run(walk_weights(rng, [0, 10, 20], {"a": (9,)}))
    with pytest.raises(InputError, match=complaint):
        run(make(Sweep, run=made, checkpoints=checkpoints, task="sums", out=tmp_path / "s", quiet=True))
    assert not (tmp_path / "s").exists()


def test_what_comes_next_has_the_momentum_that_was_given() -> None:
    request = make(Sweep, run="r", to="150", task="sums", method="blup", out="s", beta1=0.95, ema=0.5)
    for better in (True, False):
        (step,) = next_steps(found("weights", better=better, surer=False), request)
        assert "--beta1 0.95 --ema 0.5" in command_line(step.request)
