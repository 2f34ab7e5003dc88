"""Records of evaluations and sweeps: those of the former release are read, and written with the same keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from driftline.evaluation.records import EvaluationRecord, SweepRecord
from driftline.files.record import Record, read_record, record_text

FORMER = Path(__file__).parents[1] / "records" / "former"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("evaluation", EvaluationRecord),
        ("evaluation-control", EvaluationRecord),
        ("evaluation-against", EvaluationRecord),
        ("sweep", SweepRecord),
        ("sweep-output-space", SweepRecord),
    ],
)
def test_a_former_record_is_read_and_written_the_same(name: str, kind: type[Record]) -> None:
    file = FORMER / f"{name}.json"
    written = json.loads(record_text(read_record(file, kind, what="driftline")))
    former = json.loads(file.read_text())
    assert written == former
    assert list(written) == list(former)
