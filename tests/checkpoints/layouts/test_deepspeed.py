"""DeepSpeed's own checkpoints of two ranks, against its own zero_to_fp32; and the format written by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from driftline.checkpoints.trajectory import open_trajectory

DEEPSPEED = Path(sys.prefix) / "deepspeed"  # beside the environment, not in it: where make test-slow puts it
SHAPES = {"a.weight": (5, 7), "a.bias": (5,), "b.weight": (3, 3)}


def save(folder: Path, values: dict[str, torch.Tensor], stage: int, world: int = 2) -> None:
    """As DeepSpeed lays it out, in two groups up to stage 2."""
    folder.mkdir(parents=True)
    groups = [["a.weight", "b.weight"], ["a.bias"]]
    shapes = [{name: values[name].shape for name in group} for group in groups]
    model: dict[str, Any] = {"module": {"shift": torch.arange(4.0)}, "buffer_names": ["shift"], "param_shapes": shapes}
    parts: list[list[torch.Tensor]] = [[] for _ in range(world)]
    for group in groups:
        if stage == 3:
            cut = [
                torch.nn.functional.pad(v.flatten(), (0, -v.numel() % world)).chunk(world)
                for v in map(values.get, group)
                if v is not None
            ]
            flat = [torch.cat([piece[rank] for piece in cut]) for rank in range(world)]
        else:
            whole = torch.cat([values[name].flatten() for name in group])
            flat = list(torch.nn.functional.pad(whole, (0, -whole.numel() % (2 * world))).chunk(world))
        for rank in range(world):
            parts[rank].append(flat[rank].clone())
    key = "fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"
    for rank in range(world):
        state = {"zero_stage": stage, "partition_count": [world, world] if stage < 3 else world, key: parts[rank]}
        torch.save({"optimizer_state_dict": state}, folder / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
        if stage == 3:
            torch.save(model, folder / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt")
    if stage < 3:
        torch.save(model, folder / "mp_rank_00_model_states.pt")


def weights(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("place", ["global_step{}", "checkpoint-{0}/global_step{0}"])
def test_the_masters_are_read(tmp_path, stage, place):
    for step in (1, 2):
        save(tmp_path / place.format(step), weights(step), stage)
    trajectory = open_trajectory(tmp_path)
    assert {checkpoint.layout for checkpoint in trajectory.checkpoints} == {"deepspeed"}
    assert {tensor.name for tensor in trajectory} == {*SHAPES, "shift"}
    for name in SHAPES:
        info = trajectory[name].stored[1]
        expected = weights(2)[name].numpy().reshape(-1)
        np.testing.assert_array_equal(info.values(0, info.size), expected)
        np.testing.assert_array_equal(info.values(1, info.size - 1), expected[1:-1])


@pytest.mark.parametrize("stage", [2, 3])
def test_a_missing_rank_is_waited_for(tmp_path, stage):
    for step in (1, 2, 3):
        save(tmp_path / f"global_step{step}", weights(step), stage)
    (tmp_path / "global_step2" / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    (tmp_path / "global_step3" / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt").unlink()
    trajectory = open_trajectory(tmp_path)
    assert trajectory.steps == (1,)
    assert "optimizer states of 1 ranks where 2 were saved" in trajectory.skipped[2]
    assert "lacks the optimizer states of rank 0" in trajectory.skipped[3]


def test_paddings_between_parameters(tmp_path):
    """As newer versions align parameters in a group."""
    values = weights(1)
    place = tmp_path / "global_step1"
    place.mkdir()
    gaps = [3, 5, 0]
    flat = torch.cat(
        [torch.cat([values[name].flatten(), torch.full((gap,), 9.0)]) for name, gap in zip(SHAPES, gaps, strict=True)]
    )
    flat = torch.nn.functional.pad(flat, (0, -len(flat) % 4))
    model = {"module": {}, "buffer_names": [], "param_shapes": [{name: value.shape for name, value in values.items()}]}
    torch.save(model, place / "mp_rank_00_model_states.pt")
    for rank, part in enumerate(flat.chunk(2)):
        state = {"zero_stage": 2, "partition_count": 2, "single_partition_of_fp32_groups": [part.clone()]}
        state["param_alignment_paddings"] = [gaps]
        torch.save({"optimizer_state_dict": state}, place / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    trajectory = open_trajectory(tmp_path)
    for name in SHAPES:
        info = trajectory[name].stored[0]
        np.testing.assert_array_equal(info.values(0, info.size), values[name].numpy().reshape(-1))


def add_frozen(folder: Path, values: dict[str, torch.Tensor], stage: int, world: int = 2) -> None:
    """Frozen parameters as DeepSpeed keeps them: whole in the first file, or in stage 3 a flat part in each rank's."""
    shapes = {name: value.shape for name, value in values.items()}
    for rank in range(world if stage == 3 else 1):
        file = folder / ("zero_pp_rank_{}_" * (stage == 3) + "mp_rank_00_model_states.pt").format(rank)
        padded = {n: torch.nn.functional.pad(v.flatten(), (0, -v.numel() % world)) for n, v in values.items()}
        parts = {n: padded[n].chunk(world)[rank].clone() for n in values} if stage == 3 else values
        noted = {"frozen_param_shapes": shapes, "frozen_param_fragments": parts}
        torch.save({**torch.load(file, weights_only=True), **noted}, file)


@pytest.mark.parametrize("stage", [2, 3])
def test_frozen_parameters_are_read_as_they_were_saved(tmp_path, stage):
    frozen = {"c.weight": torch.randn(3, 5).bfloat16(), "d": torch.randn(3).bfloat16()}
    for step in (1, 2):
        save(tmp_path / f"global_step{step}", weights(step), stage)
        add_frozen(tmp_path / f"global_step{step}", frozen, stage)
    trajectory = open_trajectory(tmp_path)
    assert {tensor.name for tensor in trajectory} == {*SHAPES, "shift", *frozen}
    for name, value in frozen.items():
        info = trajectory[name].stored[1]
        assert info.dtype == "BF16"
        np.testing.assert_array_equal(info.values(0, info.size), value.float().numpy().reshape(-1))


def test_a_missing_rank_of_frozen_parameters_is_named(tmp_path):
    for step in (1, 2):
        save(tmp_path / f"global_step{step}", weights(step), 3)
        add_frozen(tmp_path / f"global_step{step}", {"c": torch.ones(3)}, 3)
    (tmp_path / "global_step2" / "zero_pp_rank_1_mp_rank_00_model_states.pt").unlink()
    assert "lacks the model states of rank 1" in open_trajectory(tmp_path).skipped[2]


@pytest.mark.parametrize("with_base", [True, False])
def test_lora_is_put_together_from_its_fp32_masters(tmp_path, monkeypatch, with_base):
    prefix = "base_model.model.model.q_proj"
    factors = {
        f"{prefix}.lora_A.default.weight": (2, 7),
        f"{prefix}.lora_B.default.weight": (5, 2),
        "base_model.model.x": (3,),
    }
    monkeypatch.setattr(
        sys.modules[__name__], "SHAPES", dict(zip(("a.weight", "b.weight", "a.bias"), factors.values(), strict=True))
    )
    base = torch.randn(5, 7).bfloat16()
    for step in (1, 2):
        place = tmp_path / f"checkpoint-{step}" / f"global_step{step}"
        values = weights(step)
        save(place, values, 2)
        file = place / "mp_rank_00_model_states.pt"
        state = torch.load(file, weights_only=True)
        renamed = dict(zip(("a.weight", "b.weight", "a.bias"), factors, strict=True))
        state["param_shapes"] = [
            {renamed[name]: shape for name, shape in group.items()} for group in state["param_shapes"]
        ]
        torch.save(state, file)
        if with_base:
            add_frozen(place, {f"{prefix}.base_layer.weight": base}, 2)
        (place.parent / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 6, "r": 2}))
    trajectory = open_trajectory(tmp_path)
    assert {checkpoint.layout for checkpoint in trajectory.checkpoints} == {"deepspeed"}
    assert {tensor.name for tensor in trajectory} == {"model.q_proj.weight", "x", "shift"}
    A, B = weights(2)["a.weight"].double(), weights(2)["b.weight"].double()
    expected = 3 * B @ A + (base.double() if with_base else 0)
    info = trajectory["model.q_proj.weight"].stored[1]
    np.testing.assert_allclose(info.values(0, info.size), expected.numpy().reshape(-1), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_what_deepspeed_saved_on_two_ranks(tmp_path, stage):
    assert DEEPSPEED.is_dir(), "make test-slow installs DeepSpeed there"
    path = os.pathsep.join([str(DEEPSPEED), os.environ.get("PYTHONPATH", "")])
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, Path(__file__).with_name("zero_script.py"), tmp_path, str(stage)],
        env=os.environ | {"PYTHONPATH": path, "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    whole_file = tmp_path / "whole.safetensors"  # how the processes take leave of each other is not our matter
    assert whole_file.is_file(), "\n".join(line for line in done.stderr.splitlines() if "Warning" not in line)
    whole = load_file(whole_file)
    trajectory = open_trajectory(tmp_path)
    assert {tensor.name for tensor in trajectory} == set(whole) - {"again.weight"}  # tied
    for tensor in trajectory:
        expected = whole[tensor.name].reshape(-1).astype(np.float32)
        np.testing.assert_array_equal(tensor.stored[0].values(0, tensor.size), expected)
