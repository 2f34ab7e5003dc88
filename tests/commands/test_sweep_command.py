"""What a sweep says to do next: write the forecast, confirm the pair, sample colder, or look elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from driftline.commands.requests import command_line, make
from driftline.commands.sweep import Sweep, next_steps
from driftline.evaluation.records import Control, MatchedFigures, ModelAtStep, SweepRecord
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
