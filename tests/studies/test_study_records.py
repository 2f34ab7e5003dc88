"""Records of studies and what asked for them: those of the former release are read, and written with the same keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from driftline.files.record import read_record, record_text
from driftline.report import study as page
from driftline.studies.record import Asked
from driftline.studies.study import STUDIES, experiment_named

FORMER = Path(__file__).parents[1] / "records" / "former"


@pytest.mark.parametrize("name", STUDIES)
def test_a_former_study_is_read_drawn_and_written_the_same(name: str, tmp_path: Path) -> None:
    record = read_record(FORMER / f"study-{name}.json", experiment_named(name).RECORD, what="driftline study")
    former = json.loads((FORMER / f"study-{name}.json").read_text())
    assert json.loads(record_text(record)) == former
    page.write(tmp_path, record, command=f"driftline study {name} --quick")
    assert "</html>" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("name", STUDIES)
def test_a_former_request_is_read_and_written_the_same(name: str) -> None:
    file = FORMER / f"study-{name}-request.json"
    asked = read_record(file, Asked, what="driftline study")
    assert json.loads(record_text(asked)) == json.loads(file.read_text())
    assert asked.study == name
