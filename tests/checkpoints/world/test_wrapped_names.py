"""Names that wrappers put around a model come off, in any nesting and any layout, and what is written loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from moving_models import assert_holds, logits, lora, qwen2, run_of
from safetensors.torch import save_file

from driftline.checkpoints.parameter_names import of_the_model
from driftline.checkpoints.trajectory import open_trajectory

pytestmark = pytest.mark.usefixtures("quiet_libraries")

WRAPPERS = {
    "compiled": lambda name: f"_orig_mod.{name}",
    "compiled blocks": lambda name: name.replace(".self_attn.", "._orig_mod.self_attn."),
    "DDP around a compiled model": lambda name: f"module._orig_mod.{name}",
    "FSDP": lambda name: f"_fsdp_wrapped_module.{name.replace('.layers.0.', '.layers.0._fsdp_wrapped_module.')}",
    "a value head's": lambda name: f"pretrained_model.{name}",
    "Lightning": lambda name: f"_forward_module.module.{name}",
    "peft, with nothing trained by it": lambda name: f"base_model.model.{name}",
    "all of them": lambda name: f"module._forward_module._orig_mod.pretrained_model._checkpoint_wrapped_module.{name}",
}


@pytest.mark.parametrize("layout", ["safetensors", "state dict", "gathered FSDP", "DCP"])
@pytest.mark.parametrize("kind", WRAPPERS)
def test_names_that_wrappers_put_around_a_model(tmp_path: Path, kind: str, layout: str) -> None:
    model = qwen2()

    def save(folder: Path) -> None:
        state = {WRAPPERS[kind](name): value.detach().clone() for name, value in model.state_dict().items()}
        if kind == "a value head's":
            state |= {"v_head.summary.weight": torch.randn(1, 32), "v_head.summary.bias": torch.zeros(1)}
        model.config.save_pretrained(folder)
        if layout == "safetensors":
            save_file(state, folder / "model.safetensors", {"format": "pt"})
        elif layout == "DCP":
            dcp.save({"model": state}, checkpoint_id=folder / "pytorch_model_fsdp_0", no_dist=True)
        else:
            torch.save(state, folder / ("pytorch_model.bin" if layout == "state dict" else "pytorch_model_fsdp.bin"))

    run = run_of(tmp_path / "run", model, save)
    trajectory = open_trajectory(run)
    assert {tensor.name for tensor in trajectory} == set(model.state_dict())
    assert trajectory.unmeasured == 0
    if kind == "a value head's":
        assert trajectory.left_out["v_head.summary.weight"] == "a value head of the trainer, no part of the model"
    assert_holds(run, tmp_path / "hold", logits(model))


def test_adapters_of_compiled_blocks(tmp_path: Path) -> None:
    base = qwen2()
    base.save_pretrained(tmp_path / "base")
    model = lora(qwen2(), alpha_pattern={"model.layers.1.self_attn.q_proj": 32})

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        state = {
            f"base_model.model.{name}".replace("base_model.model.base_model.model.", "base_model.model.")
            .replace(".self_attn.", "._orig_mod.self_attn.")
            .replace(".default", ""): value.clone()
            for name, value in model.state_dict().items()
            if "lora_" in name
        }
        save_file(state, folder / "adapter_model.safetensors", {"format": "pt"})

    run = run_of(tmp_path / "run", model, save)
    assert_holds(run, tmp_path / "hold", logits(model), base=tmp_path / "base")


@pytest.mark.parametrize(
    ("saved", "name"),
    [
        ("model.model.layers.0.w", "model.layers.0.w"),
        ("model.base_model.model.model.layers.0.w", "model.layers.0.w"),
        ("app.model.model.layers.0.w", "model.layers.0.w"),
        ("model._orig_mod.model.layers.0.w", "model.layers.0.w"),
        ("model.module.model.layers.0.w", "model.layers.0.w"),
        ("model.layers.0.w", "model.layers.0.w"),
        ("transformer.h.0.w", "transformer.h.0.w"),
    ],
)
def test_states_around_a_model(saved: str, name: str) -> None:
    assert of_the_model([saved]) == {saved: name}


def test_two_tensors_of_one_name_are_not_chosen_between(tmp_path: Path) -> None:
    model = qwen2()

    def save(folder: Path) -> None:
        state = {name: value.detach().clone() for name, value in model.state_dict().items()}
        state["module.model.norm.weight"] = torch.ones(32)
        save_file(state, folder / "model.safetensors", {"format": "pt"})

    run = run_of(tmp_path / "run", model, save)
    with pytest.raises(Exception, match=r"holds 'model\.norm\.weight' twice"):
        open_trajectory(run)
