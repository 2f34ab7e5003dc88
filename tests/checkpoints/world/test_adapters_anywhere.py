"""LoRA pairs are measured as their product wherever they lie, and put on the base that they were trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from moving_models import STEPS, assert_holds, logits, lora, moving, qwen2, run_of, values
from safetensors.torch import load_file, save_file

import driftline
from driftline.checkpoints.trajectory import open_trajectory
from driftline.errors import InputError

pytestmark = pytest.mark.usefixtures("quiet_libraries")

Q = "model.layers.0.self_attn.q_proj.weight"


def product(model, name: str = Q) -> torch.Tensor:
    module = model.get_submodule("base_model.model." + name.removesuffix(".weight"))
    return module.get_delta_weight("default").detach()


@pytest.mark.parametrize("whole", [True, False], ids=["beside the base", "alone"])
@pytest.mark.parametrize("layout", ["DCP", "gathered FSDP", "sharded state dict"])
def test_factors_in_a_whole_state(tmp_path: Path, layout: str, whole: bool) -> None:
    qwen2().save_pretrained(tmp_path / "base")
    model = lora(qwen2())

    def save(folder: Path) -> None:
        state = {name: value.detach().clone() for name, value in model.state_dict().items() if whole or "lora_" in name}
        if layout == "DCP":
            dcp.save({"model": state}, checkpoint_id=folder / "pytorch_model_fsdp_0", no_dist=True)
        elif layout == "gathered FSDP":
            torch.save(state, folder / "pytorch_model_fsdp.bin")
        else:
            torch.save(state, folder / "pytorch_model-00001-of-00001.bin")
            index = {"weight_map": dict.fromkeys(state, "pytorch_model-00001-of-00001.bin")}
            (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        model.peft_config["default"].save_pretrained(folder)
        model.config.save_pretrained(folder)

    run = run_of(tmp_path / "run", model, save)
    trajectory = open_trajectory(run)
    assert not any("lora" in tensor.name for tensor in trajectory)
    expected = product(model) + (qwen2().state_dict()[Q] if whole else 0)
    torch.testing.assert_close(values(trajectory, Q), expected, rtol=1e-6, atol=1e-7)
    assert_holds(run, tmp_path / "hold", logits(model), base=None if whole else tmp_path / "base")


@pytest.mark.parametrize(
    ("left", "right"), [("lora_A.0", "lora_B.0"), ("lora_a.weight", "lora_b.weight"), ("lora_A", "lora_B")]
)
def test_other_spellings_and_a_scale_that_no_file_says(tmp_path: Path, left: str, right: str) -> None:
    for step in STEPS:
        state = {f"model.q.{left}": torch.full((2, 5), float(step)), f"model.q.{right}": torch.ones(3, 2)}
        dcp.save(state, checkpoint_id=tmp_path / "run" / f"step_{step}", no_dist=True)
    trajectory = open_trajectory(tmp_path / "run")
    assert [tensor.shape for tensor in trajectory] == [(3, 5)]
    assert "says the scale of its adapter (lora_alpha)" in trajectory.remarks[0]
    with pytest.raises(
        InputError, match=r"whose scale \(lora_alpha\) no file says: put peft's adapter_config.json there"
    ):
        driftline.extrapolate(tmp_path / "run", tmp_path / "out", to=90, method="two-point")


def test_one_of_several_adapters_is_the_default(tmp_path: Path) -> None:
    model = lora(qwen2())
    model.add_adapter("ref", model.peft_config["default"])

    def save(folder: Path) -> None:
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        model.peft_config["default"].save_pretrained(folder)
        model.config.save_pretrained(folder)

    run = run_of(tmp_path / "run", model, save, [p for n, p in model.named_parameters() if ".default" in n])
    assert_holds(run, tmp_path / "hold", logits(model))


def test_an_adapter_with_a_name_of_its_own(tmp_path: Path) -> None:
    import peft

    base = qwen2()
    base.save_pretrained(tmp_path / "base")
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(qwen2(), config, adapter_name="actor_adapter")
    run = run_of(tmp_path / "run", model, model.save_pretrained)  # peft: checkpoint-N/actor_adapter/
    assert_holds(run, tmp_path / "hold", logits(model), base=tmp_path / "base")


def test_the_base_given_as_a_pair(tmp_path: Path) -> None:
    qwen2().save_pretrained(tmp_path / "base")
    model = lora(qwen2())
    run = run_of(tmp_path / "run", model, model.save_pretrained)
    pairs = [f"0={tmp_path / 'base'}", *(f"{step}={run / f'checkpoint-{step}'}" for step in STEPS)]
    one = driftline.analyze(pairs, tmp_path / "pairs")
    other = driftline.analyze(run, tmp_path / "base-named", base=tmp_path / "base")
    assert one.gram == other.gram
    assert one.verdict == other.verdict
    assert "is taken as the base of the adapters" in one.notes[0]
    assert_holds(pairs, tmp_path / "hold", logits(model))


def test_adapters_and_then_a_merged_model(tmp_path: Path) -> None:
    qwen2().save_pretrained(tmp_path / "base")
    model = lora(qwen2())
    run = run_of(tmp_path / "run", model, model.save_pretrained)
    merged = model.merge_and_unload()
    merged.save_pretrained(run / "checkpoint-50")
    with pytest.raises(InputError, match=r"cannot be compared without the adapters' base: name it with --base"):
        open_trajectory(run)
    trajectory = open_trajectory(run, base=tmp_path / "base")
    assert trajectory.steps == (0, *STEPS, 50)
    deltas = [info.values(0, info.size) for info in trajectory[Q].stored[-2:]]
    np.testing.assert_allclose(deltas[0], deltas[1], atol=1e-6)


def test_verls_merger_leaves_the_adapter_below_the_base(tmp_path: Path) -> None:
    model = lora(qwen2())

    def save(folder: Path) -> None:
        qwen2().save_pretrained(folder)
        model.save_pretrained(folder / "lora_adapter")

    run = run_of(tmp_path / "run", model, save)
    assert_holds(run, tmp_path / "hold", logits(model))


@pytest.mark.parametrize("kind", ["pissa", "olora"])
@pytest.mark.parametrize("saved", ["checkpoint-0", "pissa_init", None])
def test_what_the_start_of_training_took_out_of_the_base(tmp_path: Path, kind: str, saved: str | None) -> None:
    qwen2().save_pretrained(tmp_path / "base")
    model = lora(qwen2(), init_lora_weights=kind)
    if saved is not None:
        model.save_pretrained(tmp_path / "run" / saved)
    run = run_of(tmp_path / "run", model, model.save_pretrained)
    if saved is None:
        with pytest.raises(InputError, match=f"init_lora_weights='{kind}'.*took the adapter's first product out of"):
            open_trajectory(run, base=tmp_path / "base")
    else:
        assert_holds(run, tmp_path / "hold", logits(model), base=tmp_path / "base")
        whole = open_trajectory(run, base=tmp_path / "base")
        np.testing.assert_allclose(
            whole[Q].stored[0].values(0, 1024), qwen2().state_dict()[Q].detach().numpy().reshape(-1), atol=1e-6
        )
    alone = driftline.analyze(run, tmp_path / "alone")  # differences of products are those of the weights
    assert alone.parameters.measured > 0


def test_loftq_is_refused_with_a_base(tmp_path: Path) -> None:
    qwen2().save_pretrained(tmp_path / "base")
    model = lora(qwen2())

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, "init_lora_weights": "loftq"}))

    run = run_of(tmp_path / "run", model, save)
    with pytest.raises(InputError, match=r"loftq.*quantised what it left"):
        open_trajectory(run, base=tmp_path / "base")


SETTINGS: dict[str, dict[str, Any]] = {
    "DoRA": {"use_dora": True},
    "embeddings of a tied model": {"target_modules": ["embed_tokens", "q_proj"], "tied": True},
    "the head of a tied model": {"target_modules": ["lm_head", "q_proj"], "tied": True},
    "a tied model's embeddings trained whole": {"modules_to_save": ["embed_tokens"], "tied": True},
    "embeddings and head trained whole": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "rows of tokens": {"trainable_token_indices": {"embed_tokens": [1, 5, 60]}},
    "rows of tokens of a tied model": {"trainable_token_indices": {"embed_tokens": [1, 5, 60]}, "tied": True},
    "rows of tokens, given as a list": {"trainable_token_indices": [7, 3]},
    "biases": {"bias": "lora_only"},
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_what_peft_loads_is_what_is_held(tmp_path: Path, kind: str) -> None:
    import peft

    settings = dict(SETTINGS[kind])
    tied = bool(settings.pop("tied", False))
    qwen2(tied=tied).save_pretrained(tmp_path / "base")
    model = lora(qwen2(tied=tied), **settings)
    run = run_of(tmp_path / "run", model, model.save_pretrained)
    loaded = peft.PeftModel.from_pretrained(qwen2(tied=tied), run / f"checkpoint-{STEPS[-1]}")
    assert_holds(run, tmp_path / "hold", logits(loaded), base=tmp_path / "base")


def test_a_vocabulary_that_was_resized_for_new_tokens(tmp_path: Path) -> None:
    qwen2().save_pretrained(tmp_path / "base")
    resized = qwen2()
    resized.resize_token_embeddings(66)
    model = lora(resized, modules_to_save=["embed_tokens", "lm_head"])
    run = run_of(tmp_path / "run", model, model.save_pretrained)
    trajectory = open_trajectory(run, base=tmp_path / "base")
    assert trajectory["model.embed_tokens.weight"].shape == (64, 32)
    assert trajectory.unmeasured == 2 * 2 * 32
    assert "the first 64 are measured" in trajectory.left_out["lm_head.weight[64:]"]
    assert_holds(run, tmp_path / "hold", logits(model), base=tmp_path / "base")
    far = tmp_path / "far"
    driftline.extrapolate(run, far, base=tmp_path / "base", to=80, method="two-point", from_=(0, 40), keep=("none",))
    before, now, then = (
        load_file(tmp_path / "base" / "model.safetensors"),
        load_file(run / "checkpoint-40" / "adapter_model.safetensors"),
        load_file(far / "model.safetensors"),
    )
    last = now["base_model.model.model.embed_tokens.weight"]
    torch.testing.assert_close(
        then["model.embed_tokens.weight"][:64], 2 * last[:64] - before["model.embed_tokens.weight"]
    )
    torch.testing.assert_close(then["model.embed_tokens.weight"][64:], last[64:])


def test_a_bfloat16_base_and_float32_adapters(tmp_path: Path) -> None:
    qwen2(tied=True).to(torch.bfloat16).save_pretrained(tmp_path / "base")
    model = lora(qwen2(tied=True).to(torch.bfloat16).float())
    run = run_of(tmp_path / "run", model, model.save_pretrained)
    driftline.extrapolate(run, tmp_path / "out", base=tmp_path / "base", to=80, method="two-point")
    assert {value.dtype for value in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}
    loss = json.loads((tmp_path / "out" / "driftline.json").read_text())["rounding_loss"]
    assert 0 < loss < 0.1


def test_adapters_of_another_naming_of_the_base(tmp_path: Path) -> None:
    """transformers before and after a model of vision was put around its language model."""
    base = qwen2()
    base.save_pretrained(tmp_path / "base")
    model = lora(qwen2())

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        file = folder / "adapter_model.safetensors"
        state = {
            name.replace("model.model.layers", "model.model.language_model.layers"): value
            for name, value in load_file(file).items()
        }
        save_file(state, file, {"format": "pt"})

    run = run_of(tmp_path / "run", model, save)
    assert_holds(run, tmp_path / "hold", logits(model), base=tmp_path / "base")


def test_moving_is_a_line() -> None:
    """What the other tests stand on."""
    parameter = torch.nn.Parameter(torch.zeros(50))
    rows = [parameter.detach().clone() for _ in moving([parameter])]
    assert torch.corrcoef(torch.stack([rows[1] - rows[0], rows[3] - rows[2]]))[0, 1] > 0.5
