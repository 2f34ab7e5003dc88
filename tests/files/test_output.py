"""Results are complete or absent, and nothing that is not ours is ever deleted."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from driftline.errors import InputError
from driftline.files import output
from driftline.files.json import json_text
from driftline.files.output import clear_leftovers, output_folder, refuse_occupied, scratch_folder


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


def leave(out: Path, moment: str) -> None:
    """What a process that is killed in `output_folder` leaves: another process does it, and dies at once."""
    script = f"""
import os, shutil
from pathlib import Path
from driftline.files import output
out, moment = Path({str(out)!r}), {moment!r}
rename = os.rename
def dying(old, new):
    if moment == "before the rename":
        os._exit(9)
    rename(old, new)
    if moment == "between the renames":
        os._exit(9)
os.rename = dying
with output.output_folder(out, overwrite=True) as folder:
    (folder / "summary.json").write_text("new")
    if moment == "while writing":
        os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == 9


@pytest.mark.parametrize("moment", ["while writing", "before the rename"])
def test_what_a_killed_process_left_goes_with_the_next_call(tmp_path: Path, moment: str) -> None:
    out = tmp_path / "my [out]"
    leave(out, moment)
    assert not out.exists()
    assert len(list(tmp_path.iterdir())) == 1
    with output_folder(out) as folder:
        (folder / "summary.json").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["my [out]"]


@pytest.mark.parametrize("moment", ["while writing", "before the rename", "between the renames"])
def test_a_former_result_outlives_a_process_killed_while_replacing_it(tmp_path: Path, moment: str) -> None:
    out = tmp_path / "out"
    with output_folder(out) as folder:
        (folder / "summary.json").write_text("former")
    leave(out, moment)
    with pytest.raises(InputError, match="is not empty"):
        refuse_occupied(out, overwrite=False, mark="summary.json")
    assert (out / "summary.json").read_text() == "former"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_another_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    with output_folder(tmp_path / "out") as one:
        with output_folder(tmp_path / "out") as other:
            (other / "summary.json").write_text("second")
            assert one.is_dir()
        (one / "summary.json").write_text("first")
        with pytest.raises(InputError, match="is not empty"):
            refuse_occupied(tmp_path / "out", overwrite=False, mark="summary.json")
        assert one.is_dir()
        (tmp_path / "out" / "summary.json").unlink()
    assert (tmp_path / "out" / "summary.json").read_text() == "first"


def test_a_folder_of_another_name_is_nobodys_leftover(tmp_path: Path) -> None:
    theirs = tmp_path / ".output.partial-x"
    theirs.mkdir()
    refuse_occupied(tmp_path / "out", overwrite=False, mark="summary.json")
    assert theirs.is_dir()


def test_a_scratch_folder_of_a_killed_process_goes_with_the_next_call(tmp_path: Path) -> None:
    with scratch_folder(tmp_path / "out") as folder:
        assert folder.is_dir()
    assert list(tmp_path.iterdir()) == []
    script = f"""
import os
from pathlib import Path
from driftline.files.output import scratch_folder
with scratch_folder(Path({str(tmp_path / "out")!r})) as folder:
    (folder / "model.safetensors").touch()
    os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == 9
    assert len(list(tmp_path.iterdir())) == 1
    refuse_occupied(tmp_path / "out", overwrite=False, mark="summary.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", ["made", "opened"])
def test_a_folder_that_is_taken_for_a_leftover_before_it_is_held_is_made_anew(tmp_path, monkeypatch, moment) -> None:
    """Two processes at once: the other lists leftovers between a folder's making and its holding."""
    made, make, hold = [], output.tempfile.mkdtemp, output.hold

    def mkdtemp(**given: Any) -> str:
        made.append(make(**given))
        if moment == "made" and len(made) == 1:
            clear_leftovers(tmp_path / "out")
        return made[-1]

    def opened_before(folder: Path) -> int:
        holding = hold(folder)
        if moment == "opened" and len(made) == 1:
            folder.rmdir()  # as the other did, and let go of it
        return holding

    monkeypatch.setattr(output.tempfile, "mkdtemp", mkdtemp)
    monkeypatch.setattr(output, "hold", opened_before)
    with scratch_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("whole")
        assert [str(folder)] == made[1:]
        assert not Path(made[0]).exists()
    assert not any(tmp_path.iterdir())
