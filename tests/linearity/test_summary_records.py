"""Summaries, comparisons and inspections: those of the former release are read and written the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from conftest import plain
from driftline.checkpoints.inspection import Inspection
from driftline.checkpoints.jumps import read_jumps
from driftline.errors import InputError
from driftline.files.record import read_record, write_record
from driftline.linearity.comparison import Comparison
from driftline.linearity.summary import KINDS, UNSET, read_summary

FORMER = Path(__file__).parents[1] / "records" / "former"
SUMMARIES = [path.name for path in sorted([*FORMER.glob("a*.json"), FORMER / "logprobs.json", FORMER / "watch.json"])]


def put(folder: Path, name: str) -> Path:
    """As the command leaves it."""
    shutil.copy(FORMER / name, folder / "summary.json")
    return folder


def test_every_kind_is_there() -> None:
    assert {json.loads((FORMER / name).read_text())["kind"] for name in SUMMARIES} == set(KINDS)
    assert len(SUMMARIES) >= 7


@pytest.mark.parametrize("name", SUMMARIES)
def test_a_summary_of_the_former_release_is_read_and_written_the_same(tmp_path: Path, name: str) -> None:
    summary = read_summary(put(tmp_path, name))
    assert plain(summary) == json.loads((FORMER / name).read_text())
    write_record(tmp_path / "summary.json", summary)
    assert read_summary(tmp_path) == summary


def test_what_a_summary_has_depends_on_its_run(tmp_path: Path) -> None:
    assert read_summary(put(tmp_path, "analysis.json")).jumps is UNSET
    jumps = read_summary(put(tmp_path, "analysis-regrounded.json")).jumps
    assert jumps is not UNSET
    assert jumps.count > 0
    assert read_summary(put(tmp_path, "logprobs.json")).unit == "tokens"
    assert read_summary(put(tmp_path, "watch.json")).unit == "parameters"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"of_a_later_release": 1}, r"unknown field `of_a_later_release`\): make it again"),
        ({"kind": "dreams"}, "is a summary of 'dreams', which is unknown"),
        ({"kind": None}, "is not a summary of analyze, logprobs or activations"),
        ({"steps": "all"}, r"Expected `array`, got `str` - at `\$\.steps`\): make it again"),
    ],
)
def test_what_is_no_summary_is_refused(tmp_path: Path, change: dict[str, object], said: str) -> None:
    text = json.dumps(json.loads((FORMER / "analysis.json").read_text()) | change)
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(InputError, match=said):
        read_summary(tmp_path)


@pytest.mark.parametrize(("name", "kind"), [("comparison.json", Comparison), ("inspect.json", Inspection)])
def test_comparisons_and_inspections_are_read_and_written_the_same(
    name: str, kind: type[Comparison] | type[Inspection]
) -> None:
    record = read_record(FORMER / name, kind, what="driftline")
    assert plain(record) == json.loads((FORMER / name).read_text())


@pytest.mark.parametrize("name", ["reground-jumps.json", "train-jumps.json"])
def test_jumps_are_read_and_written_the_same(tmp_path: Path, name: str) -> None:
    shutil.copy(FORMER / name, tmp_path / "jumps.json")
    assert plain(read_jumps(tmp_path)) == json.loads((FORMER / name).read_text())
