"""Names of folders as trainers and people write them: found as which step, or named as seen and why not taken."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_folders import checkpoint, run_of

from driftline.checkpoints.discovery import find_steps
from driftline.checkpoints.folder_names import step_name
from driftline.checkpoints.trajectory import open_trajectory
from driftline.errors import InputError


@pytest.mark.parametrize(
    ("pattern", "steps"),
    [
        ("Step_{}", [10, 20, 30]),
        ("CHECKPOINT-{}", [10, 20, 30]),
        ("ckpt-{}", [10, 20, 30]),
        ("ckpt_{}", [10, 20, 30]),
        ("{}", [9, 10, 100]),
        ("step{}", [10, 20, 30]),
        ("step{}-tokens4B", [1000, 2000, 30000]),
        ("stage1-step{}-tokens3B", [1000, 2000, 3000]),
        ("step{}-unsharded", [10, 20, 30]),
        ("epoch_1_step_{}", [50, 100, 150]),
        ("epoch-1-step-{}", [50, 100, 150]),
        ("epoch=1-step={}", [50, 100, 150]),
        ("epoch0epochstep7globalstep{}", [8, 16, 24]),
        ("checkpoint-{}-merged", [10, 20, 30]),
        ("checkpoint-{}_hf", [10, 20, 30]),
        ("checkpoint_step_{}", [10, 20, 30]),
        ("iter_{:07}", [10, 20, 30]),
        ("iteration_{}", [10, 20, 30]),
        ("epoch_{}", [1, 2, 3]),
    ],
)
def test_found_under_their_step(tmp_path: Path, pattern: str, steps: list[int]) -> None:
    found = find_steps([run_of(tmp_path, map(pattern.format, steps))])
    assert {step: path.name for step, path in found.steps.items()} == {step: pattern.format(step) for step in steps}
    assert (found.unused, found.skipped, found.notes) == ({}, {}, ())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("checkpoint-final", "its name says no step"),
        ("best", "the best by some score"),
        ("best_global_step40", "the best by some score"),
        ("last", "its name says no step"),
        ("latest", "its name says no step"),
        ("anything", "its name says no step"),
        ("checkpoint-20-v2", "says more than a step"),
        ("my-run-step-20", "says more than a step"),
        ("step-0.1", "not a whole one"),
        ("tmp_step_7", "not finished"),
        ("tmp-checkpoint-7", "not finished"),
        ("old_step_7", "put aside"),
    ],
)
def test_seen_and_not_taken_for_a_reason(tmp_path: Path, name: str, reason: str) -> None:
    run = run_of(tmp_path, ["step_10", "step_20", name])
    found = find_steps([run])
    assert list(found.steps) == [10, 20]
    assert found.unused.keys() == {str(run / name)}
    assert reason in found.unused[str(run / name)]
    assert "give it as STEP=PATH" in found.unused[str(run / name)]
    taken = find_steps([run, f"70={run / name}"])  # that advice can be followed
    assert taken.steps == {10: run / "step_10", 20: run / "step_20", 70: run / name}
    assert taken.unused == {}


@pytest.mark.parametrize("name", ["logs", "wandb", "tensorboard", "best_metrics", "2024", ".ipynb_checkpoints"])
def test_folders_that_are_none_and_look_like_none_are_passed_over(tmp_path: Path, name: str) -> None:
    run = run_of(tmp_path, ["step_10", "step_20"])
    (run / name).mkdir()
    (run / name / "events.out").touch()
    assert find_steps([run]).unused == {}


def test_a_link_to_a_checkpoint_is_no_other(tmp_path: Path) -> None:
    run = run_of(tmp_path, ["step_10", "step_20"])
    (run / "latest").symlink_to(run / "step_20")
    (run / "step_020").symlink_to(run / "step_20")
    found = find_steps([run])
    assert list(found.steps) == [10, 20]
    assert found.unused == {str(run / "latest"): "a link to step_20, which is used"}


def test_numbers_alone_are_steps_only_where_one_holds_weights(tmp_path: Path) -> None:
    for seed in ("0", "1"):
        run_of(tmp_path / seed, ["checkpoint-5", "checkpoint-10"])
    with pytest.raises(InputError, match=r"holds no checkpoints itself, but .*/0 does"):
        find_steps([tmp_path])
    assert list(find_steps([tmp_path / "1"]).steps) == [5, 10]


def test_epochs_beside_steps_are_no_steps(tmp_path: Path) -> None:
    run = run_of(tmp_path, ["epoch_1", "epoch_2", "epoch_3", "epoch_4", "step_100", "step_200", "step_300"])
    found = find_steps([run])
    assert list(found.steps) == [100, 200, 300]
    assert [Path(path).name for path in found.unused] == ["epoch_1", "epoch_2", "epoch_3", "epoch_4"]
    assert all("an epoch, not a step" in reason for reason in found.unused.values())


def test_of_two_ways_of_counting_the_larger_is_taken(tmp_path: Path) -> None:
    run = run_of(tmp_path, ["iter_0000001", "iter_0000002", "checkpoint-10", "checkpoint-20", "checkpoint-30"])
    found = find_steps([run])
    assert list(found.steps) == [10, 20, 30]
    assert [Path(path).name for path in found.unused] == ["iter_0000001", "iter_0000002"]
    assert all("counts apart from checkpoint-10" in reason for reason in found.unused.values())
    checkpoint(run / "iter_0000003")
    with pytest.raises(InputError, match=r"such as checkpoint-10 and such as iter_0000001, as many of each"):
        find_steps([run])


def test_what_can_be_read_counts_more_than_what_cannot(tmp_path: Path) -> None:
    """slime: Megatron's own checkpoints, of which weights for transformers were saved now and then."""
    run = run_of(tmp_path, ["20", "40"])
    for step in (10, 20, 30, 40):
        (run / f"iter_{step:07}").mkdir()
        (run / f"iter_{step:07}" / "common.pt").touch()
    assert [path.name for path in find_steps([run]).steps.values()] == ["20", "40"]


def test_steps_that_start_anew_in_each_epoch_are_refused(tmp_path: Path) -> None:
    run = run_of(tmp_path, ["epoch_0_step_100", "epoch_0_step_200", "epoch_1_step_50"])
    with pytest.raises(InputError, match="start anew in each epoch, as epoch_1_step_50 and epoch_0_step_100 show"):
        find_steps([run])
    (run / "epoch_1_step_50").rename(run / "epoch_1_step_200")
    with pytest.raises(InputError, match="start anew in each epoch"):
        find_steps([run])
    (run / "epoch_1_step_200").rename(run / "epoch_1_step_300")
    assert list(find_steps([run]).steps) == [100, 200, 300]


def test_padded_and_bare_names_of_one_step_are_refused_until_one_is_named(tmp_path: Path) -> None:
    run = run_of(tmp_path, ["checkpoint-10", "checkpoint-20", "checkpoint-20-v2", "checkpoint-0030", "checkpoint-30"])
    with pytest.raises(InputError, match="both hold step 30: name the one to use as 30=PATH"):
        find_steps([run])
    found = find_steps([run, f"30={run / 'checkpoint-30'}"])
    assert found.steps[30] == run / "checkpoint-30"
    assert list(found.steps) == [10, 20, 30]


def test_nothing_found_says_what_was_seen_and_why_it_is_none(tmp_path: Path) -> None:
    run = run_of(tmp_path, [f"step-0.{tenth}" for tenth in range(1, 9)])
    checkpoint(run / "best")
    with pytest.raises(InputError, match="looked for folders named") as raised:
        find_steps([run])
    assert str(raised.value).count("its number is not a whole one") == 1
    assert "step-0.6 and 2 more: its number is not a whole one" in str(raised.value)
    assert "best: named as the best by some score" in str(raised.value)


def test_copies_of_other_precision_are_not_mixed(tmp_path: Path) -> None:
    """The series of more steps is read, the plain one where there are as many; the other is named."""
    run = run_of(tmp_path, ["global_step20", "global_step30", "global_step40", "global_step40_hf"])
    found = find_steps([run])
    assert [path.name for path in found.steps.values()] == ["global_step20", "global_step30", "global_step40"]
    assert list(found.unused) == [str(run / "global_step40_hf")]
    assert "global_step20 (3 of its kind) and global_step40_hf (1 of its kind)" in found.notes[0]
    for step in (10, 20, 30):
        checkpoint(run / f"global_step{step}_hf", step)
    found = find_steps([run])
    assert [path.name for path in found.steps.values()] == [f"global_step{step}_hf" for step in (10, 20, 30, 40)]
    trajectory = open_trajectory(run)
    assert trajectory.notes == found.notes
    assert trajectory.unused == found.unused
    assert trajectory.only([10, 20]).notes == found.notes


@pytest.mark.parametrize("name", ["", "step_", "step", "checkpoint", "step_١٠", "step_1234567890123", "global_steps"])
def test_no_step_in_a_name(name: str) -> None:
    assert step_name(name) is None
