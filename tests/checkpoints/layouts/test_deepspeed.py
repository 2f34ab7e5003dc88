"""DeepSpeed's own checkpoints of two ranks, against its own zero_to_fp32; and the format written by hand."""

from __future__ import annotations

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
from driftline.errors import InputError

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
            cut = [torch.nn.functional.pad(v.flatten(), (0, -v.numel() % world)).chunk(world) for v in map(values.get, group) if v is not None]  # fmt: skip
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
    flat = torch.cat([torch.cat([values[name].flatten(), torch.full((gap,), 9.0)]) for name, gap in zip(SHAPES, gaps, strict=True)])  # fmt: skip
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


def test_frozen_parameters_are_refused(tmp_path):
    save(tmp_path / "global_step1", weights(1), 2)
    file = tmp_path / "global_step1" / "mp_rank_00_model_states.pt"
    torch.save({**torch.load(file, weights_only=True), "frozen_param_shapes": {"c": torch.Size([2])}}, file)
    with pytest.raises(InputError, match=r"convert it with its zero_to_fp32\.py"):
        open_trajectory(tmp_path)


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
