"""verl's rank files: what FSDP2 saved on two ranks and on four is read back, bit for bit; mixed and missing files are named."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from driftline.checkpoints.trajectory import open_trajectory
from driftline.errors import InputError
from driftline.linearity.scan import scan
from driftline.outputs.checkpoint_model import load_checkpoint

ROWS = {"model.a.weight": (7, 5), "model.b.bias": (3,), "model.c.weight": (4, 2, 3)}


def weights(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in ROWS.items()}


def save_ranks(actor: Path, state: dict[str, torch.Tensor], world: int, *, prefix: str = "") -> None:
    """Plain tensors, cut along their first axis, as FSDP1 leaves them."""
    actor.mkdir(parents=True, exist_ok=True)
    for rank in range(world):
        part = {prefix + name: value.tensor_split(world)[rank].clone() for name, value in state.items()}
        torch.save(part, actor / f"model_world_size_{world}_rank_{rank}.pt")


def make_run(folder: Path, world: int, steps=(10, 20, 30)) -> dict[int, dict[str, torch.Tensor]]:
    states = {step: weights(step) for step in steps}
    for step, state in states.items():
        save_ranks(folder / f"global_step_{step}" / "actor", state, world)
    return states


@pytest.mark.parametrize("world", [1, 2, 3])
def test_plain_parts_are_joined_along_the_first_axis(tmp_path, world):
    states = make_run(tmp_path, world)
    trajectory = open_trajectory(tmp_path)
    assert trajectory.steps == (10, 20, 30)
    assert {checkpoint.layout for checkpoint in trajectory.checkpoints} == {"verl-fsdp"}
    for tensor in trajectory:
        for info, state in zip(tensor.stored, states.values(), strict=True):
            np.testing.assert_array_equal(info.values(0, info.size), state[tensor.name].numpy().reshape(-1))
            np.testing.assert_array_equal(info.values(1, info.size - 1), state[tensor.name].numpy().reshape(-1)[1:-1])
    assert len(list(scan(trajectory))) == 3


def test_copies_on_every_rank_are_one(tmp_path):
    """One shard, several replicas (fsdp_size=1): each rank's file holds the whole model."""
    for step in (10, 20):
        actor = tmp_path / f"global_step_{step}" / "actor"
        actor.mkdir(parents=True)
        for rank in range(2):
            torch.save(weights(step), actor / f"model_world_size_2_rank_{rank}.pt")
    trajectory = open_trajectory(tmp_path)
    assert {tensor.name: tensor.shape for tensor in trajectory} == ROWS
    assert trajectory.parameters == sum(value.numel() for value in weights(0).values())


def test_a_shape_that_contradicts_the_configuration_is_refused(tmp_path):
    """Ranks that differ a little are no copies, and joined they are twice the vocabulary."""
    actor = tmp_path / "global_step_10" / "actor"
    (actor / "huggingface").mkdir(parents=True)
    for rank in range(2):
        state = {"model.embed_tokens.weight": torch.randn(16, 4), "model.norm.weight": torch.ones(4)}
        torch.save(state, actor / f"model_world_size_2_rank_{rank}.pt")
    assert open_trajectory(tmp_path)["model.embed_tokens.weight"].shape == (32, 4)
    (actor / "huggingface" / "config.json").write_text(json.dumps({"vocab_size": 16, "hidden_size": 4}))
    with pytest.raises(InputError, match=r"make 'model.embed_tokens.weight' \[32, 4\] where .* says \[16, 4\]"):
        open_trajectory(tmp_path)


def test_names_of_wrappers_are_dropped(tmp_path):
    actor = tmp_path / "global_step_5" / "actor"
    save_ranks(actor, weights(0), 2, prefix="_fsdp_wrapped_module._orig_mod.")
    assert {tensor.name for tensor in open_trajectory(tmp_path)} == set(ROWS)


def test_a_view_and_a_parameter_in_the_file(tmp_path):
    whole = torch.arange(40.0)
    actor = tmp_path / "global_step_5" / "actor"
    actor.mkdir(parents=True)
    state = {"a": whole[10:22].view(3, 4), "b": torch.nn.Parameter(whole[22:]), "scalar": torch.tensor(3.0)}
    torch.save(state, actor / "model_world_size_1_rank_0.pt")
    trajectory = open_trajectory(tmp_path)
    np.testing.assert_array_equal(trajectory["a"].stored[0].values(0, 12), np.arange(10, 22))
    np.testing.assert_array_equal(trajectory["b"].stored[0].values(0, 18), np.arange(22, 40))
    assert trajectory["scalar"].stored[0].values(0, 1) == 3


def test_the_ranks_files_come_before_rounded_weights(tmp_path):
    from safetensors.torch import save_file

    make_run(tmp_path, 2)
    for step in (10, 20, 30):
        model = tmp_path / f"global_step_{step}" / "actor" / "huggingface"
        model.mkdir()
        (model / "config.json").write_text("{}")
        save_file({name: value.bfloat16() for name, value in weights(step).items()}, model / "model.safetensors")
    trajectory = open_trajectory(tmp_path)
    assert {tensor.dtype for tensor in trajectory} == {"F32"}
    assert "the ranks' files are read, which have the trainer's own precision" in trajectory.checkpoints[0].notes[0]
    assert trajectory.checkpoints[0].model == tmp_path / "global_step_10" / "actor" / "huggingface"


@pytest.mark.parametrize("alone", [False, True])
def test_adapters_are_their_product(tmp_path, alone):
    a, b, base = torch.randn(3, 7), torch.randn(5, 3), torch.randn(5, 7)
    state = {"q.lora_A.default.weight": a, "q.lora_B.default.weight": b}
    if not alone:
        state |= {"q.base_layer.weight": base, "norm.weight": torch.ones(7)}
    actor = tmp_path / "global_step_5" / "actor"
    save_ranks(actor, {f"base_model.model.{name}": value for name, value in state.items()}, 2)
    assert "says the scale of its adapter" in open_trajectory(tmp_path).remarks[0]
    (actor / "lora_train_meta.json").write_text(
        json.dumps({"r": 3, "lora_alpha": 0})
    )  # what verl writes if it knows none
    assert "says the scale of its adapter" in open_trajectory(tmp_path).remarks[0]
    (actor / "lora_train_meta.json").write_text(json.dumps({"r": 3, "lora_alpha": 6, "task_type": "CAUSAL_LM"}))
    trajectory = open_trajectory(tmp_path)
    expected = (b.double() @ a.double() * 2 + (0 if alone else base)).float().numpy().reshape(-1)
    np.testing.assert_allclose(trajectory["q.weight"].stored[0].values(0, 35), expected, rtol=1e-6)
    assert {tensor.name for tensor in trajectory} == ({"q.weight"} if alone else {"q.weight", "norm.weight"})


def test_a_missing_rank_is_waited_for(tmp_path):
    make_run(tmp_path, 2)
    (tmp_path / "global_step_30" / "actor" / "model_world_size_2_rank_1.pt").unlink()
    trajectory = open_trajectory(tmp_path)
    assert trajectory.steps == (10, 20)
    assert "lacks the file of rank 1 of 2: still being written, or lost" in trajectory.skipped[30]


def test_two_saves_in_one_folder(tmp_path):
    make_run(tmp_path, 2, steps=(10,))
    actor = tmp_path / "global_step_10" / "actor"
    save_ranks(actor, weights(10), 1)
    with pytest.raises(InputError, match="of 1 and 2 ranks, so of two saves"):
        open_trajectory(tmp_path)
    (actor / "fsdp_config.json").write_text('{"FSDP_version": 2, "world_size": 2}')
    assert open_trajectory(tmp_path).steps == (10,)


@pytest.mark.parametrize("keep", [0, 3, 100, -1])
def test_a_truncated_file_is_named(tmp_path, keep):
    make_run(tmp_path, 2)
    file = tmp_path / "global_step_20" / "actor" / "model_world_size_2_rank_0.pt"
    file.write_bytes(file.read_bytes()[:keep])
    assert "is not a whole file of torch.save" in open_trajectory(tmp_path).skipped[20]


def test_nothing_in_a_file_is_executed(tmp_path):
    make_run(tmp_path, 1)
    file = tmp_path / "global_step_20" / "actor" / "model_world_size_1_rank_0.pt"
    planted = tmp_path / "planted"

    class Plant:
        def __reduce__(self):
            return os.system, (f"touch {planted}",)

    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"model.a.weight": Plant()}, protocol=2))
    trajectory = open_trajectory(tmp_path)
    assert not planted.exists()
    assert trajectory.steps == (10, 20, 30) or 20 in trajectory.skipped


def test_a_compressed_archive_is_refused(tmp_path):
    make_run(tmp_path, 1)
    file = tmp_path / "global_step_20" / "actor" / "model_world_size_1_rank_0.pt"
    members = {info.filename: zipfile.ZipFile(file).read(info) for info in zipfile.ZipFile(file).infolist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert "is compressed, which torch.save never does" in open_trajectory(tmp_path).skipped[20]


def test_the_old_format_is_refused(tmp_path):
    make_run(tmp_path, 1)
    file = tmp_path / "global_step_20" / "actor" / "model_world_size_1_rank_0.pt"
    torch.save(weights(20), file, _use_new_zipfile_serialization=False)
    assert "saved before torch 1.6" in open_trajectory(tmp_path).skipped[20]


def test_reading_needs_no_torch(tmp_path):
    make_run(tmp_path, 2)
    code = (
        "import sys; from driftline import open_trajectory; from driftline.linearity.scan import scan;"
        f"assert len(list(scan(open_trajectory({str(tmp_path)!r})))) == 3; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["verl", "verl-lora", "verl-2d"])
def test_what_fsdp2_saved_on_several_ranks(tmp_path, kind):
    step = tmp_path / "global_step_7"
    step.mkdir()
    subprocess.run([sys.executable, Path(__file__).with_name("fsdp_script.py"), step, kind], check=True)
    whole = load_file(step / "whole.safetensors")
    if kind == "verl-lora":
        (step / "actor" / "lora_train_meta.json").write_text(json.dumps({"r": 3, "lora_alpha": 5}))
    trajectory = open_trajectory(tmp_path)
    assert {tensor.name for tensor in trajectory} == set(whole) - {"lm_head.weight"}  # tied
    for tensor in trajectory:
        found, expected = tensor.stored[0].values(0, tensor.size), whole[tensor.name].reshape(-1)
        if kind == "verl-lora":
            np.testing.assert_allclose(found, expected, rtol=3e-7, atol=3e-7)
        else:
            np.testing.assert_array_equal(found, expected)
    model = load_checkpoint(trajectory.checkpoints[0])
    for name, value in model.state_dict().items():
        np.testing.assert_allclose(value.numpy(), whole[name], rtol=3e-7, atol=3e-7)
