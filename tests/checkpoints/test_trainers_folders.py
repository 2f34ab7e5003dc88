"""What trainers leave beside checkpoints: markers, emptied folders, places of their own, a former run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from small_folders import checkpoint, log, run_of

from driftline.checkpoints.discovery import find_steps
from driftline.checkpoints.inspection import inspect
from driftline.checkpoints.reasons import grouped, remedy
from driftline.checkpoints.trajectory import open_trajectory
from driftline.errors import InputError
from driftline.linearity.scan import scan

MARKERS = [
    ("latest_checkpointed_iteration.txt", "30", "global_step_{}"),
    ("latest_checkpointed_iteration.txt", "30\n", "iter_{:07}"),
    ("latest_ckpt_global_step.txt", "30", "global_step_{}"),
    ("latest", "global_step30", "global_step{}"),
]


@pytest.mark.parametrize(("marker", "text", "pattern"), MARKERS)
def test_steps_after_the_marker_are_not_of_the_run(tmp_path: Path, marker: str, text: str, pattern: str) -> None:
    run = run_of(tmp_path, map(pattern.format, (10, 20, 30, 40, 50)))
    (run / marker).write_text(text)
    trajectory = open_trajectory(run)
    assert trajectory.steps == (10, 20, 30)
    assert trajectory.skipped.keys() == {40, 50}
    assert f"later than step 30, the last that {run / marker} names" in trajectory.skipped[40]
    assert len(grouped(trajectory.skipped)) == 1
    assert open_trajectory(run, steps="10,20").skipped == {}
    taken = open_trajectory([run, f"40={run / pattern.format(40)}"])  # as the reason advises
    assert taken.steps == (10, 20, 30, 40)
    assert taken.skipped.keys() == {50}


@pytest.mark.parametrize(
    ("text", "word"), [("release", "names no step"), ("60", "which is not there"), ("", "no step")]
)
def test_a_marker_that_cannot_be_followed_is_ignored_with_a_word(tmp_path: Path, text: str, word: str) -> None:
    run = run_of(tmp_path, ["iter_0000010", "iter_0000020"])
    (run / "latest_checkpointed_iteration.txt").write_text(text)
    found = find_steps([run])
    assert list(found.steps) == [10, 20]
    (note,) = found.notes
    assert word in note
    assert "ignored" in note


def test_deepspeeds_tag_is_of_its_own_names_only(tmp_path: Path) -> None:
    run = run_of(tmp_path, ["checkpoint-10", "checkpoint-20"])
    (run / "latest").write_text("global_step10")
    found = find_steps([run])
    assert (list(found.steps), found.notes) == ([10, 20], ())


@pytest.mark.parametrize(
    "left",
    [
        ["data.pt"],
        ["trainer_state.pt", "data.pt"],
        ["trainer_state.json", "config.json", "tokenizer.json"],
        ["optimizer.pt", "rng_state.pth", "scheduler.pt", "training_args.bin"],
        ["data.pt", "critic/model_world_size_1_rank_0.pt"],
        ["optimizer/__0_0.distcp", "optimizer/.metadata", "dataloader.pt"],
    ],
)
def test_what_rotation_leaves_is_said_once(tmp_path: Path, left: list[str]) -> None:
    run = run_of(tmp_path, ["global_step_100", "global_step_110"])
    for step in range(10, 100, 10):
        for name in left:
            path = run / f"global_step_{step}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    trajectory = open_trajectory(run)
    assert trajectory.steps == (100, 110)
    (sentence,) = grouped(trajectory.skipped)
    assert sentence.startswith("9 checkpoints (10 to 90): the weights have been deleted, most likely by the trainer")
    with pytest.raises(InputError, match=r"2 usable checkpoints.*or add the base model.*not used: 9 checkpoints"):
        next(scan(trajectory))


@pytest.mark.parametrize(
    "there", [[], ["config.json"], ["config.json", "tokenizer.json"], ["model-00001-of-00002.safetensors"]]
)
def test_what_may_still_come_is_not_called_deleted(tmp_path: Path, there: list[str]) -> None:
    run = run_of(tmp_path, ["checkpoint-10", "checkpoint-20"])
    (run / "checkpoint-30").mkdir()
    for name in there:
        (run / "checkpoint-30" / name).touch()
    assert "still being written" in open_trajectory(run).skipped[30]


def test_a_run_whose_weights_are_all_deleted_is_refused_in_a_sentence(tmp_path: Path) -> None:
    for step in (10, 20):
        (tmp_path / f"global_step_{step}").mkdir()
        (tmp_path / f"global_step_{step}" / "data.pt").touch()
    with pytest.raises(
        InputError, match=r"none of the 2 checkpoints can be read \(2 checkpoints \(10 and 20\): the weights"
    ):
        open_trajectory(tmp_path, steps="10:")


def test_weights_of_something_else_are_named(tmp_path: Path) -> None:
    run = run_of(tmp_path, ["step_10", "step_20"])
    checkpoint(run / "step_30" / "ema" / "model")
    reason = open_trajectory(run).skipped[30]
    assert "holds weights in ema/model/ only" in reason
    assert open_trajectory([run, f"30={run / 'step_30' / 'ema' / 'model'}"]).steps == (10, 20, 30)


def test_weights_are_found_where_only_one_folder_has_them(tmp_path: Path) -> None:
    run = run_of(tmp_path, ["step_10", "step_20"])
    checkpoint(run / "step_30" / "somewhere" / "else")
    assert open_trajectory(run).steps == (10, 20, 30)
    checkpoint(run / "step_30" / "elsewhere")
    reason = open_trajectory(run).skipped[30]
    assert "holds weights in elsewhere and somewhere/else: name the one to use" in reason


def test_the_place_with_more_checkpoints_is_read_and_the_other_can_be(tmp_path: Path) -> None:
    """OpenRLHF keeps the last three of `_actor/`, and weights for transformers of all."""
    run = run_of(tmp_path, [f"global_step{step}_hf" for step in (10, 20, 30, 40)])
    run_of(run / "_actor", [f"global_step{step}" for step in (20, 30, 40)])
    found = find_steps([run])
    assert list(found.steps) == [10, 20, 30, 40]
    (note,) = found.notes
    assert f"{run} is read, which has more of them; give {run / '_actor'} to read" in note
    assert list(find_steps([run / "_actor"]).steps.values()) == [
        run / f"_actor/global_step{step}" for step in (20, 30, 40)
    ]
    checkpoint(run / "_actor" / "global_step10")
    found = find_steps([run])
    assert found.steps[10] == run / "_actor" / "global_step10"
    assert (
        f"as full precision comes first; give STEP=PATH pairs, such as 10={run / 'global_step10_hf'}" in found.notes[0]
    )
    pairs = [f"{step}={run / f'global_step{step}_hf'}" for step in (10, 20)]
    assert list(find_steps(pairs).steps.values()) == [run / "global_step10_hf", run / "global_step20_hf"]


def test_other_folders_of_checkpoints_are_named(tmp_path: Path) -> None:
    run = run_of(tmp_path, ["global_step10_hf", "global_step20_hf"])
    run_of(run / "_critic", ["global_step10", "global_step20"])
    assert find_steps([run]).unused == {
        str(run / "_critic"): "it holds checkpoints itself; give it as RUN to read those instead"
    }


# -- a second run in the folder of a longer one


def at(run: Path, times: dict[int, float]) -> None:
    for step, time in times.items():
        os.utime(run / f"checkpoint-{step}" / "model.safetensors", (1.7e9 + time,) * 2)


def rows(steps: Sequence[int], reward: float) -> list[dict[str, float]]:
    return [{"step": step, "reward": reward + step / 100} for step in steps]


def test_logs_that_contradict_each_other_name_the_two_runs(tmp_path: Path) -> None:
    run = run_of(tmp_path, [f"checkpoint-{step}" for step in (10, 20, 30, 40, 50, 60)])
    for step in (10, 20, 30, 40, 50, 60):
        log(run / f"checkpoint-{step}", rows(range(1, step + 1), 0.3 if step <= 30 else 0.1))
    trajectory = open_trajectory(run)
    (note,) = trajectory.notes
    assert "steps 10 to 30 and those of 40 to 60 seem to be of two runs" in note
    assert "--steps 10:30 or --steps 40:60" in note
    assert note in inspect(trajectory).problems
    assert open_trajectory(run, steps="10:30").notes == ()
    assert open_trajectory(run, steps="40:60").notes == ()
    for step in (40, 50, 60):  # the same run went on, from step 30: NaN is NaN
        log(run / f"checkpoint-{step}", [*rows(range(1, 31), 0.3), {"step": 31, "loss": float("nan")}])
    at(run, {10: 5, 20: 6, 30: 7, 40: 1, 50: 2, 60: 3})  # copied; the logs know better
    assert open_trajectory(run).notes == ()
    for step in (40, 50, 60):  # they say nothing of each other
        log(run / f"checkpoint-{step}", rows(range(31, step + 1), 0.3))
    assert "as the files' times go back" in open_trajectory(run).notes[0]


@pytest.mark.parametrize(
    ("times", "two"),
    [
        ({10: 1000, 20: 1010, 30: 1020, 40: 10, 50: 20, 60: 30}, True),
        ({10: 10, 20: 20, 30: 30, 40: 40, 50: 50, 60: 60}, False),
        ({10: 1000, 20: 10, 30: 20, 40: 30, 50: 40, 60: 50}, False),  # one alone was copied
        ({10: 30, 20: 20, 30: 40, 40: 10, 50: 50, 60: 15}, False),  # in no order
        ({10: 40, 20: 50, 30: 60, 40: 10, 50: 20, 60: 39}, False),  # no further apart than saves are
    ],
)
def test_times_that_go_back_once_name_the_two_runs(tmp_path: Path, times: dict[int, float], two: bool) -> None:
    run = run_of(tmp_path, [f"checkpoint-{step}" for step in times])
    at(run, times)
    notes = open_trajectory(run).notes
    assert len(notes) == two
    assert not two or "steps 10 to 30 and those of 40 to 60 seem to be of two runs, as the files' times" in notes[0]


def test_copies_in_the_order_of_their_names_are_one_run(tmp_path: Path) -> None:
    run = run_of(tmp_path, [f"checkpoint-{step}" for step in (80, 90, 100, 110)])
    at(run, {100: 0, 110: 1, 80: 100, 90: 101})
    assert open_trajectory(run).notes == ()


# -- reasons


def test_reasons_of_a_kind_are_one_sentence(tmp_path: Path) -> None:
    for run in (tmp_path / "run", tmp_path / "a run"):
        reasons = {step: f"{run / f'checkpoint-{step}'}/x.safetensors is lost: damaged" for step in (10, 20, 30)}
        (sentence,) = grouped(reasons)
        assert sentence.startswith("3 checkpoints (10 to 30): ")
        assert sentence.endswith("FOLDER/x.safetensors is lost: damaged")
        assert str(run / "checkpoint") not in sentence
    reasons = {step: f"{tmp_path}/checkpoint-{step}/x is {step + 7} bytes: truncated" for step in (10, 20, 40)}
    (sentence,) = grouped(reasons | {50: "x"})[:-1]
    assert sentence == f"3 checkpoints (10, 20, 40): the first: {tmp_path}/checkpoint-10/x is 17 bytes: truncated"
    assert grouped({7: "a/step_7 is lost"}) == ["step 7: a/step_7 is lost"]


def test_the_base_is_advised_only_where_it_helps() -> None:
    assert remedy((10, 20), 3) == "save more checkpoints, or add the base model with --base"
    assert remedy((0, 20), 3) == "save more checkpoints"
    assert remedy((10,), 3) == "save more checkpoints"
    assert remedy((0, 20), 3, {30: "lost"}) == "save more checkpoints (not used: step 30: lost)"
