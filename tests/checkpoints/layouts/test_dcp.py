"""Distributed checkpoints that torch itself wrote, read without torch; and slices in safetensors files."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp
from safetensors.numpy import load_file

from driftline.checkpoints.trajectory import open_trajectory
from driftline.errors import InputError
from driftline.forecast.request import ForecastRequest
from driftline.linearity.scan import scan
from driftline.writing.extrapolate import extrapolate

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is")
SHAPES = {"model.layers.0.up.weight": (6, 5), "model.norm.weight": (5,), "lm_head.weight": (9, 5)}


def weights(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SHAPES.items()}


def save(folder: Path, state: dict) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    dcp.save(state, checkpoint_id=folder, no_dist=True)


def prefixed(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in state.items()}


LAYOUTS = {
    "torchtitan": ("step-{}", ""),
    "prime-rl": ("step_{}/trainer", "app.model."),
    "accelerate": ("checkpoint-{}/pytorch_model_fsdp_0", "model."),
    "NeMo-RL": ("step_{}/policy/weights", ""),
    "compiled": ("step_{}", "_orig_mod."),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_models_tensors_are_read_back(tmp_path, name, dtype):
    place, prefix = LAYOUTS[name]
    states = {step: weights(step, dtype) for step in (10, 20, 30)}
    for step, state in states.items():
        trainer = {"optimizer.state.exp_avg": torch.randn(6, 5), "train_state": torch.tensor(step), "note": "text"}
        extra = prefixed("app.", {"optimizers.state.0.exp_avg": torch.ones(3)}) if "app" in prefix else trainer
        save(tmp_path / place.format(step), prefixed(prefix, state) | extra)
    trajectory = open_trajectory(tmp_path)
    assert trajectory.steps == (10, 20, 30)
    assert {tensor.name for tensor in trajectory} == set(SHAPES)
    assert {checkpoint.layout for checkpoint in trajectory.checkpoints} == {"dcp"}
    for tensor in trajectory:
        for info, state in zip(tensor.stored, states.values(), strict=True):
            np.testing.assert_array_equal(info.values(0, info.size), state[tensor.name].float().numpy().reshape(-1))
    assert len(list(scan(trajectory))) == 3


def test_reading_needs_no_torch(tmp_path):
    save(tmp_path / "step-1", weights(1))
    code = (
        "import sys; from driftline import open_trajectory;"
        f"open_trajectory({str(tmp_path)!r})['lm_head.weight'].stored[0].values(0, 45); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_not_complete_is_waited_for(tmp_path):
    for step in (1, 2, 3, 4):
        save(tmp_path / f"step-{step}", weights(step))
    (tmp_path / "step-2" / ".metadata").unlink()
    (tmp_path / "step-3" / "__0_0.distcp").unlink()
    file = tmp_path / "step-4" / "__0_0.distcp"
    os.truncate(file, file.stat().st_size - 1)
    trajectory = open_trajectory(tmp_path)
    assert trajectory.steps == (1,)
    assert "has no .metadata yet" in trajectory.skipped[2]
    assert "__0_0.distcp cannot be read" in trajectory.skipped[3]
    assert "is shorter than .metadata says" in trajectory.skipped[4]


def test_nothing_in_the_metadata_is_executed(tmp_path):
    save(tmp_path / "step-1", weights(1))
    save(tmp_path / "step-2", weights(2))
    planted = tmp_path / "planted"

    class Plant:
        def __reduce__(self):
            return os.system, (f"touch {planted}",)

    (tmp_path / "step-2" / ".metadata").write_bytes(pickle.dumps(Plant()))
    trajectory = open_trajectory(tmp_path)
    assert not planted.exists()
    assert "is not the index of a distributed checkpoint" in trajectory.skipped[2]


def test_a_path_out_of_the_folder_is_refused(tmp_path):
    for step in (1, 2):
        save(tmp_path / f"step-{step}", weights(step))
    metadata = tmp_path / "step-2" / ".metadata"
    metadata.write_bytes(metadata.read_bytes().replace(b"\x0c__0_0.distcp", b"\x0c../x.safeten"))
    assert "which is outside its folder" in open_trajectory(tmp_path).skipped[2]


def test_a_forecast_takes_its_configuration_from_the_base(tmp_path):
    for step in (10, 20):
        save(tmp_path / "run" / f"step-{step}", weights(step))
    base = tmp_path / "base"
    base.mkdir()
    safetensors.torch.save_file(weights(0), base / "model.safetensors")
    request = ForecastRequest((30,), "two-point", (10, 20))
    with pytest.raises(InputError, match=r"has no config\.json.*--base"):
        extrapolate(open_trajectory(tmp_path / "run"), tmp_path / "out", request)
    (base / "config.json").write_text(json.dumps({"model_type": "test"}))
    extrapolate(open_trajectory(tmp_path / "run", base=base), tmp_path / "out", request)
    found = load_file(tmp_path / "out" / "model.safetensors")
    expected = 2 * weights(20)["lm_head.weight"] - weights(10)["lm_head.weight"]
    np.testing.assert_allclose(found["lm_head.weight"], expected.numpy(), rtol=1e-5, atol=1e-6)
    assert (tmp_path / "out" / "config.json").exists()


def test_a_base_that_cannot_be_read_is_refused(tmp_path):
    save(tmp_path / "run" / "step-10", weights(10))
    (tmp_path / "base").mkdir()
    with pytest.raises(InputError, match=r"--base cannot be read \(.* holds no weights"):
        open_trajectory(tmp_path / "run", base=tmp_path / "base")


@pytest.mark.parametrize("place", ["checkpoints", "checkpoint", "weights", "_actor"])
def test_a_run_whose_checkpoints_are_one_folder_down(tmp_path, place):
    save(tmp_path / place / "step_10", weights(10))
    trajectory = open_trajectory(tmp_path)
    assert trajectory.steps == (10,)
    assert not any("checkpoints are in" in note for note in trajectory.checkpoints[0].notes)


def test_of_two_places_one_is_read_and_said(tmp_path):
    save(tmp_path / "checkpoints" / "step_10" / "trainer", prefixed("app.model.", weights(10)))
    for step in (10, 20):
        (tmp_path / "weights" / f"step_{step}").mkdir(parents=True)
        safetensors.torch.save_file(
            weights(step, torch.bfloat16), tmp_path / "weights" / f"step_{step}" / "model.safetensors"
        )
    trajectory = open_trajectory(tmp_path)
    assert trajectory.steps == (10, 20)
    assert {tensor.dtype for tensor in trajectory} == {"BF16"}
    (note,) = trajectory.notes
    assert "weights (2 steps)" in note
    assert "checkpoints (1 steps)" in note
    assert "which has more of them" in note
    assert f"give {tmp_path / 'checkpoints'} to read" in note
    shutil.rmtree(tmp_path / "weights" / "step_20")
    trajectory = open_trajectory(tmp_path)
    assert {tensor.dtype for tensor in trajectory} == {"F32"}
    assert "as full precision comes first" in trajectory.notes[0]


def test_megatron_is_told_what_converts_it(tmp_path):
    (tmp_path / "iter_0000010").mkdir()
    (tmp_path / "iter_0000010" / "common.pt").write_bytes(b"")
    with pytest.raises(InputError, match="is a Megatron checkpoint: convert it"):
        open_trajectory(tmp_path)


def save_slices(folder: Path, state: dict[str, torch.Tensor], *, rows: int = 2) -> None:
    """As torch's writer leaves them: each rank's rows, their place in the metadata."""
    folder.mkdir(parents=True)
    for rank in range(rows):
        parts, places = {}, {}
        for name, value in state.items():
            chunks = value.tensor_split(rows)
            parts[name] = chunks[rank].clone()
            first = sum(len(chunk) for chunk in chunks[:rank])
            places[name] = {"saved_offsets": [first, *[0] * (value.dim() - 1)]}
        noted = {"DCP_SHARDING_INFO": json.dumps(places), "format": "pt"}
        safetensors.torch.save_file(parts, folder / f"shard-{rank:05}-model-00001-of-00001.safetensors", metadata=noted)


def test_slices_are_joined(tmp_path):
    for step in (1, 2):
        save_slices(tmp_path / f"step_{step}" / "policy" / "weights", weights(step))
    trajectory = open_trajectory(tmp_path)
    assert {checkpoint.layout for checkpoint in trajectory.checkpoints} == {"sliced-safetensors"}
    for tensor in trajectory:
        expected = weights(2)[tensor.name].numpy().reshape(-1)
        np.testing.assert_array_equal(tensor.stored[1].values(0, tensor.size), expected)


def test_a_missing_slice_is_named(tmp_path):
    for step in (1, 2):
        save_slices(tmp_path / f"step_{step}" / "policy" / "weights", weights(step))
    (tmp_path / "step_2" / "policy" / "weights" / "shard-00000-model-00001-of-00001.safetensors").unlink()
    assert "each once: a rank's file is missing" in open_trajectory(tmp_path).skipped[2]


@pytest.mark.slow
def test_what_fsdp2_and_dcp_saved_on_two_ranks(tmp_path):
    step = tmp_path / "step_7"
    step.mkdir()
    subprocess.run([sys.executable, Path(__file__).with_name("fsdp_script.py"), step, "dcp"], check=True)
    (step / "dcp").rename(step / "trainer")
    whole = load_file(step / "whole.safetensors")
    trajectory = open_trajectory(tmp_path)
    assert {tensor.name for tensor in trajectory} == set(whole) - {
        "lm_head.weight"
    }  # tied: equal, though no file says so
    for tensor in trajectory:
        np.testing.assert_array_equal(tensor.stored[0].values(0, tensor.size), whole[tensor.name].reshape(-1))


@pytest.mark.slow
def test_what_torchs_own_writer_of_slices_leaves(tmp_path):
    step = tmp_path / "step_7"
    step.mkdir()
    subprocess.run([sys.executable, Path(__file__).with_name("fsdp_script.py"), step, "slices"], check=True)
    whole = load_file(step / "whole.safetensors")
    trajectory = open_trajectory(tmp_path)
    assert {checkpoint.layout for checkpoint in trajectory.checkpoints} == {"sliced-safetensors"}
    for tensor in trajectory:
        np.testing.assert_array_equal(tensor.stored[0].values(0, tensor.size), whole[tensor.name].reshape(-1))
    assert {tensor.name for tensor in trajectory} == set(whole) - {"lm_head.weight"}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "layout"), [("accelerate", "dcp"), ("accelerate-full", "torch-state-dict")])
def test_what_accelerate_saved_of_fsdp_on_two_ranks(tmp_path, kind, layout):
    subprocess.run([sys.executable, Path(__file__).with_name("fsdp_script.py"), tmp_path, kind], check=True)
    (tmp_path / "saved").rename(tmp_path / "checkpoint-7")
    whole = load_file(tmp_path / "whole.safetensors")
    trajectory = open_trajectory(tmp_path)
    assert [checkpoint.layout for checkpoint in trajectory.checkpoints] == [layout]
    assert {tensor.name for tensor in trajectory} == set(whole) - {"lm_head.weight"}
    for tensor in trajectory:
        np.testing.assert_array_equal(tensor.stored[0].values(0, tensor.size), whole[tensor.name].reshape(-1))
