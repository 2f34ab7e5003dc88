"""Which checkpoints and tensors take part, and the reason for each that does not."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from conftest import save_tensors
from driftline.checkpoints.inspection import inspect
from driftline.checkpoints.trajectory import open_trajectory
from driftline.errors import InputError

MakeRun = Callable[..., Path]


def _steps(*steps: int, **tensors: np.ndarray) -> dict[int, dict[str, np.ndarray]]:
    return {step: {name: value + step for name, value in tensors.items()} for step in steps}


def test_reads_slices_of_every_checkpoint(make_run: MakeRun) -> None:
    run = make_run(_steps(0, 10, 20, a=np.arange(6.0).reshape(2, 3)))
    trajectory = open_trajectory(run)
    assert trajectory.steps == (0, 10, 20)
    out = np.empty((3, 2), np.float32)
    trajectory["a"].read(3, 5, out, np.empty(64, np.uint8))
    np.testing.assert_array_equal(out, [[3, 4], [13, 14], [23, 24]])


def test_sharded_checkpoints_read_like_single_files(make_run: MakeRun, tmp_path: Path) -> None:
    whole = make_run(_steps(0, 1, 2, a=np.ones(3), b=np.zeros((2, 2))))
    for step in (0, 1, 2):
        folder = tmp_path / "sharded" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        save_tensors(folder / "x-1.safetensors", {"a": np.ones(3) + step})
        save_tensors(folder / "x-2.safetensors", {"b": np.zeros((2, 2)) + step})
        index = {"weight_map": {"a": "x-1.safetensors", "b": "x-2.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    one, two = open_trajectory(whole), open_trajectory(tmp_path / "sharded")
    assert [t.name for t in one] == [t.name for t in two] == ["a", "b"]
    for tensor in one:
        values = np.empty((2, 3, tensor.size), np.float32)
        for out, trajectory in zip(values, (one, two), strict=True):
            trajectory[tensor.name].read(0, tensor.size, out, np.empty(64, np.uint8))
        np.testing.assert_array_equal(values[0], values[1])


@pytest.mark.parametrize(
    ("index", "complaint"),
    [
        ({"weight_map": {"a": "../../other/model.safetensors"}}, "outside its folder"),
        ({"weight_map": {"a": "/etc/passwd"}}, "outside its folder"),
        ({"weight_map": {"a": "gone.safetensors"}}, "lacks the shard gone.safetensors"),
        ({"weight_map": {"b": "model-1.safetensors"}}, "lacks the tensor 'b'"),
        ({"weight_map": {"a": 3}}, "outside its folder"),
        ({}, "damaged or still being written"),
    ],
)
def test_bad_indexes_skip_the_checkpoint_with_its_reason(make_run: MakeRun, index: dict, complaint: str) -> None:
    run = make_run(_steps(0, 1, a=np.ones(3)))
    bad = run / "checkpoint-2"
    bad.mkdir()
    save_tensors(bad / "model-1.safetensors", {"a": np.ones(3)})
    (bad / "model.safetensors.index.json").write_text(json.dumps(index))
    trajectory = open_trajectory(run)
    assert trajectory.steps == (0, 1)
    assert complaint in trajectory.skipped[2]
    with pytest.raises(InputError, match="--strict"):
        open_trajectory(run, strict=True)


def test_an_unfinished_checkpoint_is_skipped(make_run: MakeRun) -> None:
    run = make_run(_steps(0, 1, 2, 3, a=np.ones(300)))
    (run / "checkpoint-2" / "model.safetensors").unlink()
    file = run / "checkpoint-3" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:500])
    trajectory = open_trajectory(run)
    assert trajectory.steps == (0, 1)
    assert "holds no weights yet" in trajectory.skipped[2]
    assert "still being written, or truncated" in trajectory.skipped[3]


def test_a_bare_pickle_is_never_executed(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(_steps(0, 1, a=np.ones(3)))
    (run / "checkpoint-1" / "model.safetensors").unlink()
    planted = tmp_path / "planted"
    (run / "checkpoint-1" / "pytorch_model.bin").write_bytes(f"cos\nsystem\n(S'touch {planted}'\ntR.".encode())
    assert "saved before torch 1.6" in open_trajectory(run).skipped[1]
    assert not planted.exists()


def test_every_tensor_left_out_has_its_reason(make_run: MakeRun) -> None:
    steps = _steps(0, 1, keep=np.ones(3), shape=np.ones(3), gone=np.ones(2), ids=np.arange(3))
    steps[1]["shape"] = np.ones(4)
    del steps[1]["gone"]
    steps[0]["empty"] = steps[1]["empty"] = np.ones((0, 3))
    trajectory = open_trajectory(make_run(steps))
    assert [tensor.name for tensor in trajectory] == ["keep"]
    assert trajectory.left_out == {
        "shape": "shape [3] at step 0, [4] at step 1",
        "gone": f"only in {trajectory.checkpoints[0].path}: forecasts take it from there",
        "ids": "dtype I64 is not a floating one",
        "empty": "empty",
    }


def test_strict_refuses_differing_checkpoints(make_run: MakeRun) -> None:
    steps = _steps(0, 1, keep=np.ones(3), other=np.ones(3))
    steps[1]["other"] = np.ones(4)
    with pytest.raises(InputError, match=r"'other': shape \[3\] at step 0, \[4\] at step 1"):
        open_trajectory(make_run(steps), strict=True)


def test_nothing_in_common_is_refused(make_run: MakeRun) -> None:
    with pytest.raises(InputError, match="no tensor is the same in all checkpoints"):
        open_trajectory(make_run({0: {"a": np.ones(3)}, 1: {"a": np.ones(4)}}))


def test_tied_embeddings_count_once(make_run: MakeRun) -> None:
    table = np.ones((4, 2))
    run = make_run(_steps(0, 1, **{"model.embed_tokens.weight": table, "lm_head.weight": table}))
    assert open_trajectory(run).parameters == 8  # equal at every step: one, whatever a configuration says
    for step in (0, 1):
        (run / f"checkpoint-{step}" / "config.json").write_text(json.dumps({"tie_word_embeddings": True}))
    trajectory = open_trajectory(run)
    assert trajectory.parameters == 8
    assert trajectory.left_out == {"lm_head.weight": "tied to model.embed_tokens.weight, counted once"}


def test_base_becomes_step_zero(make_run: MakeRun) -> None:
    base = make_run({0: {"a": np.zeros(3)}}, name="base{}", run="models") / "base0"
    run = make_run(_steps(5, 10, a=np.ones(3)))
    assert open_trajectory(run, base=base).steps == (0, 5, 10)
    assert open_trajectory(run, base=base, steps="10").steps == (0, 10)
    with pytest.raises(InputError, match="is not a folder: give that of the base model"):
        open_trajectory(run, base="Qwen/Qwen2.5-1.5B")
    with_zero = make_run(_steps(0, 5, a=np.ones(3)), run="zero")
    with pytest.raises(InputError, match="already has"):
        open_trajectory(with_zero, base=base)


def test_inspection_names_what_deserves_a_word(make_run: MakeRun) -> None:
    base = make_run({0: {"a": np.zeros(3)}}, dtype="BF16", name="base{}", run="models") / "base0"
    run = make_run(_steps(5, 20, a=np.ones(3)))
    history = [{"step": 1, "learning_rate": 1e-6}, {"step": 20, "learning_rate": 1e-7}]
    (run / "checkpoint-20" / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    record = inspect(open_trajectory(run, base=base))
    assert record["steps"] == [0, 5, 20]
    assert record["parameters"] == 3
    assert [c["dtypes"] for c in record["checkpoints"]] == [["BF16"], ["F32"], ["F32"]]
    text = " ".join(record["problems"])
    for expected in (
        "dtypes differ",
        "uneven spacing, 5 to 15 steps",
        "learning rate is not constant (1e-07 to 1e-06)",
    ):
        assert expected in text
