"""Quantised weights: read at their value where a scale says how, else refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from moving_models import forecast, logits, qwen2, run_of, values, written
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import driftline
from driftline.checkpoints.trajectory import open_trajectory
from driftline.errors import InputError

pytestmark = pytest.mark.usefixtures("quiet_libraries")

UP = "model.layers.0.mlp.up_proj.weight"


def rewritten(folder: Path, change, quantization: dict | None = None) -> None:
    """A folder of transformers, its projections stored otherwise."""
    state = load_file(folder / "model.safetensors")
    found: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        found |= change(name, value) if name.endswith("_proj.weight") else {name: value}
    save_file(found, folder / "model.safetensors", {"format": "pt"})
    if quantization is not None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))


def blocks(size: int, suffix: str):
    def change(name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
        rows, columns = value.shape
        scale = torch.zeros(-(-rows // size), -(-columns // size))
        stored = torch.zeros_like(value)
        for i in range(scale.shape[0]):
            for j in range(scale.shape[1]):
                part = value[i * size : (i + 1) * size, j * size : (j + 1) * size]
                scale[i, j] = part.abs().max() / 448
                stored[i * size : (i + 1) * size, j * size : (j + 1) * size] = part / scale[i, j]
        return {name: stored.to(torch.float8_e4m3fn), f"{name}{suffix}": scale}

    return change


def by_row(name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    scale = value.abs().amax(1, keepdim=True) / 448
    return {name: (value / scale).to(torch.float8_e4m3fn), f"{name}_scale": scale.bfloat16()}


def by_tensor(name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    scale = value.abs().max() / 448
    inputs = {name.replace(".weight", ".input_scale"): torch.tensor(1.0)}
    return {name: (value / scale).to(torch.float8_e4m3fn), f"{name}_scale": scale.reshape(1), **inputs}


FORMS = {
    "blocks of 24, which do not divide": (
        blocks(24, "_scale_inv"),
        {"quant_method": "fp8", "weight_block_size": [24, 24]},
    ),
    "blocks of 128": (blocks(128, "_scale_inv"), {"quant_method": "fp8", "weight_block_size": [128, 128]}),
    "blocks of 16, no configuration": (blocks(16, "_scale_inv"), None),
    "rows": (by_row, {"quant_method": "compressed-tensors"}),
    "one for all": (by_tensor, {"quant_method": "modelopt"}),
}


@pytest.mark.parametrize("form", FORMS)
def test_fp8_is_read_with_its_scales(tmp_path: Path, form: str) -> None:
    model = qwen2()
    change, quantization = FORMS[form]

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        rewritten(folder, change, quantization)

    run = run_of(tmp_path / "run", model, save)
    trajectory = open_trajectory(run)
    assert len(trajectory.tensors) == len(model.state_dict())
    truth = model.state_dict()
    for name, value in truth.items():
        torch.testing.assert_close(values(trajectory, name), value, rtol=0.07, atol=1e-3)
    out = forecast(run, tmp_path / "hold", method="hold")
    assert not any("scale" in name for name in written(out))
    assert written(out)[UP].dtype == torch.bfloat16
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    loaded, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True, dtype=torch.float32)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert (logits(loaded) - logits(model)).abs().max() < 0.1
    far = written(forecast(run, tmp_path / "far", method="two-point", dtype="float32"))[UP]
    assert 0.5 < far.norm() / truth[UP].norm() < 5


def bitsandbytes(name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        name: torch.zeros(value.numel() // 2, 1, dtype=torch.uint8),
        f"{name}.absmax": torch.zeros(value.numel() // 64, dtype=torch.uint8),
        f"{name}.quant_map": torch.zeros(16),
        f"{name}.quant_state.bitsandbytes__nf4": torch.zeros(82, dtype=torch.uint8),
    }


def gptq(name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    stem = name.removesuffix(".weight")
    return {
        f"{stem}.qweight": torch.zeros(value.shape[1] // 8, value.shape[0], dtype=torch.int32),
        f"{stem}.scales": torch.ones(1, value.shape[0]),
    }


def packed(name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    stem = name.removesuffix(".weight")
    return {
        f"{stem}.weight_packed": torch.zeros(value.shape[0], value.shape[1] // 8, dtype=torch.int32),
        f"{stem}.weight_scale": torch.ones(value.shape[0], 1),
    }


def int8(name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    return {name: value.to(torch.int8), name.replace(".weight", ".SCB"): torch.ones(value.shape[0])}


def bare(name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    return {name: value.to(torch.float8_e4m3fn)}


def microscaling(name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    scale = torch.ones(value.shape[0], value.shape[1] // 32).to(torch.float8_e8m0fnu)
    return {name: value.to(torch.float8_e4m3fn), f"{name}_scale": scale}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (bitsandbytes, "quantised by bitsandbytes"),
        (gptq, "quantised by GPTQ or AWQ"),
        (packed, "quantised by compressed-tensors"),
        (int8, "quantised by bitsandbytes"),
        (microscaling, "no scale of"),
        (bare, "without a scale"),
    ],
)
def test_what_cannot_be_read_at_its_value_is_refused(tmp_path: Path, change, said: str) -> None:
    model = qwen2()
    model.save_pretrained(tmp_path / "base")
    rewritten(tmp_path / "base", change, {"quant_method": "fp8"})
    run = run_of(tmp_path / "run", model, model.save_pretrained)
    with pytest.raises(InputError, match=said):
        driftline.analyze(run, tmp_path / "out", base=tmp_path / "base")
    assert not (tmp_path / "out").exists()


def test_fp8_that_is_only_a_cast_is_taken_as_it_is(tmp_path: Path) -> None:
    model = qwen2()

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        rewritten(folder, bare)

    trajectory = open_trajectory(run_of(tmp_path / "run", model, save))
    torch.testing.assert_close(values(trajectory, UP), model.state_dict()[UP], rtol=0.07, atol=1e-2)


def test_scales_of_fused_experts(tmp_path: Path) -> None:
    """One matrix for each expert in one tensor, scaled by block, by expert, or all alike."""
    stored = torch.randn(3, 8, 6).to(torch.float8_e4m3fn)
    for form, scale in {
        "block": torch.rand(3, 2, 2),
        "expert": torch.rand(3),
        "all": torch.rand(1),
    }.items():
        folder = tmp_path / form / "checkpoint-1"
        folder.mkdir(parents=True)
        save_file({"m.experts.up_proj": stored, "m.experts.up_proj_scale_inv": scale}, folder / "model.safetensors")
        (folder / "config.json").write_text(
            '{"quantization_config": {"quant_method": "fp8", "weight_block_size": [4, 3]}}'
        )
        by_block = form == "block"
        whole = scale.repeat_interleave(4, 1).repeat_interleave(3, 2) if by_block else scale.reshape(-1, 1, 1)
        torch.testing.assert_close(
            values(open_trajectory(tmp_path / form), "m.experts.up_proj"), stored.float() * whole
        )
