"""Results are complete or absent, and nothing that is not ours is ever deleted."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from driftline.errors import InputError
from driftline.files.json import json_text
from driftline.files.output import output_folder, refuse_occupied


def test_output_appears_only_when_complete(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with output_folder(out) as folder:
        (folder / "summary.json").write_text("{}")
        assert not out.exists()
    assert [path.name for path in out.iterdir()] == ["summary.json"]
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with output_folder(tmp_path / "out") as folder:
            (folder / "half").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_failed_overwrite_keeps_the_old_results(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "summary.json").write_text("old")
    with pytest.raises(ZeroDivisionError), output_folder(out, overwrite=True):
        raise ZeroDivisionError
    assert (out / "summary.json").read_text() == "old"
    with output_folder(out, overwrite=True) as folder:
        (folder / "summary.json").write_text("new")
    assert (out / "summary.json").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_occupied_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match="is not empty"):
        refuse_occupied(tmp_path, overwrite=False, mark="summary.json")
    with pytest.raises(InputError, match="did not write"):
        refuse_occupied(tmp_path, overwrite=True, mark="summary.json")
    with pytest.raises(InputError, match="is a file"):
        refuse_occupied(tmp_path / "thesis.tex", overwrite=True, mark="summary.json")


def test_numbers_that_are_not_finite_become_null() -> None:
    value = {"a": [math.nan, math.inf, 1.5], "b": np.float64("nan"), "c": np.int64(3)}
    assert json.loads(json_text(value)) == {"a": [None, None, 1.5], "b": None, "c": 3}
