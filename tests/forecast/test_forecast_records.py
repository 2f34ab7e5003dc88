"""Records of back-tests and of forecasts: those of the former release are read and written the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conftest import plain
from driftline.errors import InputError
from driftline.files.record import Record, read_record, write_record
from driftline.forecast.record import BacktestRecord
from driftline.writing.record import Recipe, Recipes

FORMER = Path(__file__).parents[1] / "records" / "former"
KINDS: list[tuple[str, type[Record]]] = [
    *((path.name, BacktestRecord) for path in sorted(FORMER.glob("backtest*.json"))),
    *(
        (path.name, Recipes if path.name == "extrapolate-several-summary.json" else Recipe)
        for path in sorted(FORMER.glob("extrapolate*.json"))
    ),
]


def test_every_kind_is_there() -> None:
    assert {kind for _, kind in KINDS} == {BacktestRecord, Recipe, Recipes}
    assert len(KINDS) > 8


def in_order(file: Path) -> str:
    """Its JSON laid out alike, all numbers as floats."""
    return json.dumps(json.loads(file.read_text(), parse_int=float))


@pytest.mark.parametrize(("name", "kind"), KINDS, ids=[name for name, _ in KINDS])
def test_records_of_the_former_release_are_read_and_written_the_same(
    tmp_path: Path, name: str, kind: type[Record]
) -> None:
    """Also in the order of the keys, at every depth; a 0 may come back as 0.0."""
    record = read_record(FORMER / name, kind, what="driftline")
    former = json.loads((FORMER / name).read_text())
    assert plain(record) == former
    write_record(tmp_path / "again.json", record)
    assert in_order(tmp_path / "again.json") == in_order(FORMER / name)
    assert read_record(tmp_path / "again.json", kind, what="driftline") == record


@pytest.mark.parametrize(("name", "kind"), KINDS[:1] + KINDS[-1:], ids=["backtest", "extrapolate"])
def test_a_key_that_is_unknown_is_refused(tmp_path: Path, name: str, kind: type[Record]) -> None:
    strange = json.loads((FORMER / name).read_text()) | {"of_a_later_release": 1}
    (tmp_path / name).write_text(json.dumps(strange))
    with pytest.raises(InputError, match=r"unknown field `of_a_later_release`\): make it again"):
        read_record(tmp_path / name, kind, what="driftline")
