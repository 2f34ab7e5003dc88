"""A record is the same in memory and on disk; what is not one is refused in a sentence."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from driftline.errors import InputError
from driftline.files.record import UNSET, Figure, Record, UnsetType, read_record, write_record


class Inner(Record, rename={"share": "share_above_0.7", "from_": "from"}):
    share: Figure
    from_: int


class Outer(Record):
    name: str
    figures: dict[str, Figure]
    inner: Inner
    rows: list[list[Figure]]
    more: Inner | UnsetType = UNSET


def outer() -> Outer:
    inner = Inner(share=math.nan, from_=3)
    return Outer(name="x", figures={"a": math.inf, "b": np.float64(0.5)}, inner=inner, rows=[[1.0, -math.inf]])


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    record = outer()
    write_record(tmp_path / "r.json", record)
    assert read_record(tmp_path / "r.json", Outer, what="a test") == record
    assert json.loads((tmp_path / "r.json").read_text()) == {
        "name": "x",
        "figures": {"a": None, "b": 0.5},
        "inner": {"share_above_0.7": None, "from": 3},
        "rows": [[1.0, None]],
    }


def test_a_record_answers_to_the_keys_of_its_json() -> None:
    record = outer()
    assert record["inner"]["from"] == 3
    assert record["inner"]["share_above_0.7"] is None
    assert "inner" in record
    assert "more" not in record
    with pytest.raises(KeyError):
        record["more"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"name": 3}',
        json.dumps({"name": "x", "figures": {}, "inner": {"from": 3, "share_above_0.7": 1, "new": 2}, "rows": []}),
    ],
)
def test_what_is_no_record_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(InputError, match=r"r\.json is not what a test writes \(.+\): make it again"):
        read_record(tmp_path / "r.json", Outer, what="a test")
    with pytest.raises(InputError, match=r"none\.json cannot be read \(No such file"):
        read_record(tmp_path / "none.json", Outer, what="a test")
