"""Steps from folder names, and one clear sentence for everything that is not a run."""

from pathlib import Path

import pytest

from driftline.checkpoints.discovery import choose_steps, find_steps
from driftline.errors import InputError


@pytest.mark.parametrize(
    ("names", "steps"),
    [
        (["checkpoint-0", "checkpoint-10", "checkpoint-100"], [0, 10, 100]),
        (["global_step_5", "global_step_40"], [5, 40]),
        (["global_step5_hf", "global_step40_hf"], [5, 40]),
        (["step_1", "step_2"], [1, 2]),
        (["step-1", "step-20"], [1, 20]),
        (["iter_0000010", "iter_0000200"], [10, 200]),
        (["checkpoint-3", "logs", "tmp_step_7", "step_"], [3]),
    ],
)
def test_steps_come_from_folder_names_in_numeric_order(tmp_path: Path, names: list[str], steps: list[int]) -> None:
    for name in names:
        (tmp_path / name).mkdir()
    assert list(find_steps([tmp_path]).steps) == steps


def test_pairs_name_their_own_steps(tmp_path: Path) -> None:
    for name in ("late", "early"):
        (tmp_path / name).mkdir()
    found = find_steps([f"200={tmp_path / 'late'}", f"0={tmp_path / 'early'}"])
    assert found.steps == {0: tmp_path / "early", 200: tmp_path / "late"}


def test_two_folders_of_one_step_are_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "step_5").mkdir()
    with pytest.raises(InputError, match="both hold step 5: name the one to use as 5=PATH"):
        find_steps([tmp_path])


def test_an_empty_folder_says_what_was_looked_for_and_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"looked for folders named checkpoint-N.*there is nothing"):
        find_steps([tmp_path])
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=r"there is notes\.txt"):
        find_steps([tmp_path])


def test_the_right_folder_is_suggested(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoint-5").mkdir(parents=True)
    with pytest.raises(InputError, match=r"but .*run does: give that folder"):
        find_steps([tmp_path])
    with pytest.raises(InputError, match="is one checkpoint, not a run: give its parent"):
        find_steps([tmp_path / "run" / "checkpoint-5"])


def test_missing_folders_files_and_addresses_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for argument, complaint in [
        (str(tmp_path / "absent"), "does not exist"),
        (str(tmp_path / "file"), "is a file, not a folder"),
        ("nosuch://bucket/run", "Protocol not known"),
    ]:
        with pytest.raises(InputError, match=complaint):
            find_steps([argument])
    with pytest.raises(InputError, match="is not STEP=PATH: give one run folder"):
        find_steps([str(tmp_path), f"0={tmp_path}", str(tmp_path)])
    with pytest.raises(InputError, match="no run was named"):
        find_steps([])


@pytest.mark.parametrize(
    ("chosen", "steps"),
    [
        (None, [0, 10, 20, 30, 45]),
        ("10:30", [10, 20, 30]),
        ("0:45:20", [0, 20]),
        (":20", [0, 10, 20]),
        ("30:", [30, 45]),
        ("45,0", [0, 45]),
    ],
)
def test_choose_steps(chosen: str | None, steps: list[int]) -> None:
    assert choose_steps([0, 10, 20, 30, 45], chosen) == steps


@pytest.mark.parametrize(
    ("chosen", "complaint"),
    [("5", "step 5 is not in the run"), ("1-5", "neither"), ("0:5:0", "neither"), ("31:44", "selects no checkpoint")],
)
def test_choose_steps_refuses(chosen: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        choose_steps([0, 10, 20, 30, 45], chosen)
