"""What trainers write last: without it a checkpoint is not complete, however whole its files look."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp

import driftline
from conftest import save_tensors
from driftline.checkpoints.trajectory import open_trajectory
from driftline.errors import InputError

W = {"model.up.weight": np.ones((3, 4), np.float32)}


def save(folder: Path) -> None:
    folder.mkdir(parents=True)
    save_tensors(folder / "model.safetensors", W, "F32")


def test_prime_rl_marks_weights_as_stable(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save(tmp_path / "weights" / f"step_{step}")
    assert open_trajectory(tmp_path).steps == (10, 20, 30)  # none is marked: of another trainer
    for step in (10, 20):
        (tmp_path / "weights" / f"step_{step}" / "STABLE").touch()
    trajectory = open_trajectory(tmp_path)
    assert trajectory.steps == (10, 20)
    assert "has no STABLE yet, which prime-rl writes last" in trajectory.skipped[30]


def test_verl_writes_its_manifest_last(tmp_path: Path) -> None:
    for step in (10, 20):
        save(tmp_path / f"global_step_{step}" / "actor" / "model" / "huggingface")
    (tmp_path / "global_step_10" / "actor" / "ckpt_contents.json").write_text("{}")
    trajectory = open_trajectory(tmp_path)
    assert trajectory.steps == (10,)
    assert trajectory.checkpoints[0].model == tmp_path / "global_step_10" / "actor" / "model" / "huggingface"
    assert "has no actor/ckpt_contents.json yet" in trajectory.skipped[20]


def test_beside_megatrons_shards_the_weights_for_transformers_are_read(tmp_path: Path) -> None:
    actor = tmp_path / "global_step_10" / "actor"
    (actor / "model" / "dist_ckpt").mkdir(parents=True)
    for name in ("common.pt", "__0_0.pt"):
        (actor / "model" / "dist_ckpt" / name).touch()
    (actor / "ckpt_contents.json").write_text("{}")
    with pytest.raises(InputError, match="is a Megatron checkpoint"):
        open_trajectory(tmp_path)
    save(actor / "model" / "huggingface")
    (checkpoint,) = open_trajectory(tmp_path).checkpoints
    assert checkpoint.layout == "huggingface"


@pytest.mark.filterwarnings("ignore:torch.distributed is:UserWarning")
def test_megatrons_folders_with_torchs_index_are_measured(tmp_path: Path) -> None:
    name = "decoder.layers.self_attention.linear_qkv.weight"  # all layers in one tensor
    for step in (10, 20, 30):
        place = tmp_path / f"iter_{step:07}"
        dcp.save({name: torch.full((2, 6, 4), float(step))}, checkpoint_id=place, no_dist=True)
        (place / "metadata.json").write_text('{"sharded_backend": "torch_dist", "sharded_backend_version": 1}')
    trajectory = open_trajectory(tmp_path)
    assert {checkpoint.layout for checkpoint in trajectory.checkpoints} == {"megatron"}
    assert trajectory[name].shape == (2, 6, 4)
    assert "3 checkpoints (10 to 30): FOLDER is Megatron's" in trajectory.remarks[0]
    (tmp_path / "base").mkdir()
    with pytest.raises(InputError, match=r"Megatron's names and stacked layers: convert it"):
        driftline.extrapolate(tmp_path, tmp_path / "out", to=40, method="two-point")
