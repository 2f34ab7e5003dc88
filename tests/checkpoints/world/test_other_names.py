"""One model under several names: each checkpoint is read under those of the last, and a forecast loads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from moving_models import STEPS, assert_holds, forecast, logits, moving, qwen2, run_of, values, written
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

import driftline
from driftline.checkpoints.matching import as_named
from driftline.checkpoints.safetensors_file import read_header
from driftline.checkpoints.tensors import Stored
from driftline.checkpoints.trajectory import open_trajectory
from driftline.errors import InputError

pytestmark = pytest.mark.usefixtures("quiet_libraries")

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}


def qwen3_moe():
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        **SHAPE, moe_intermediate_size=24, head_dim=16, num_experts=4, num_experts_per_tok=2, decoder_sparse_step=1
    )
    return Qwen3MoeForCausalLM(config)


def mixtral():
    torch.manual_seed(0)
    return MixtralForCausalLM(MixtralConfig(**SHAPE, num_local_experts=4, num_experts_per_tok=2))


def vision():
    torch.manual_seed(0)
    text = {**SHAPE, "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}}
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config={
            "depth": 1,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [0],
        },
        tie_word_embeddings=False,
        image_token_id=60,
        video_token_id=61,
        vision_start_token_id=62,
        vision_end_token_id=63,
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def in_memory(folder: Path, model) -> None:
    """Under the names that transformers has in memory, as FSDP and DCP save them."""
    dcp.save({"model": model.state_dict()}, checkpoint_id=folder / "pytorch_model_fsdp_0", no_dist=True)
    model.config.save_pretrained(folder)


@pytest.mark.parametrize("build", [qwen3_moe, mixtral], ids=["qwen3-moe", "mixtral"])
def test_experts_fused_in_memory_and_one_by_one_on_disk(tmp_path: Path, build) -> None:
    model = build()
    model.save_pretrained(tmp_path / "base")
    separate = tmp_path / "separate"

    def save(folder: Path) -> None:
        in_memory(folder, model)
        model.save_pretrained(separate / folder.name)

    run = run_of(tmp_path / "run", model, save)
    trajectory = open_trajectory(run, base=tmp_path / "base")
    assert trajectory.unmeasured == 0
    assert trajectory.parameters == sum(parameter.numel() for parameter in model.parameters())
    fused = driftline.analyze(run, tmp_path / "fused", base=tmp_path / "base")
    apart = driftline.analyze(separate, tmp_path / "apart", base=tmp_path / "base")
    np.testing.assert_allclose(fused.gram, apart.gram, rtol=1e-5, atol=1e-6)
    assert_holds(run, tmp_path / "hold", logits(model), base=tmp_path / "base")
    assert_holds(separate, tmp_path / "hold-apart", logits(model), base=run / "checkpoint-10")
    options = {"method": "two-point", "from_": (0, 40), "base": tmp_path / "base"}
    one, other = (
        AutoModelForCausalLM.from_pretrained(forecast(each, tmp_path / name, **options), dtype=torch.float32)
        for each, name in ((run, "one"), (separate, "other"))
    )
    torch.testing.assert_close(logits(one), logits(other))


def test_projections_joined_in_one_checkpoint_and_apart_in_another(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Phi3ForCausalLM(Phi3Config(**SHAPE, pad_token_id=0))

    def apart(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = {}
        for name, value in state.items():
            joined = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
            kind = next((one for one in joined if one in name), "")
            parts = joined.get(kind, (kind,))
            for part, rows in zip(parts, value.chunk(len(parts)), strict=True):
                found[name.replace(kind, part) if kind else name] = rows.clone()
        return found

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        if folder.name < "checkpoint-30":
            save_file(apart(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})

    run = run_of(tmp_path / "run", model, save)
    trajectory = open_trajectory(run)
    assert trajectory.steps == STEPS
    assert trajectory.unmeasured == 0
    assert_holds(run, tmp_path / "hold", logits(model))
    backwards = [f"{100 - step}={run / f'checkpoint-{step}'}" for step in reversed(STEPS)]
    names = {tensor.name for tensor in open_trajectory(backwards)}
    assert "model.layers.0.self_attn.q_proj.weight" in names
    assert open_trajectory(backwards).parameters == trajectory.parameters


@pytest.mark.parametrize("how", ["a base of the Hub", "an upgrade in the middle"])
def test_a_language_model_inside_a_model_of_vision(tmp_path: Path, how: str) -> None:
    model = vision()
    model.save_pretrained(tmp_path / "base")
    later = STEPS if how == "a base of the Hub" else STEPS[2:]

    def save(folder: Path) -> None:
        if int(folder.name.split("-")[1]) in later:
            in_memory(folder, model)
        else:
            model.save_pretrained(folder)

    run = run_of(tmp_path / "run", model, save)
    trajectory = open_trajectory(run, base=tmp_path / "base")
    assert trajectory.steps == (0, *STEPS)
    assert trajectory.unmeasured == 0
    assert trajectory.parameters == sum(parameter.numel() for parameter in model.parameters())
    driftline.extrapolate(run, tmp_path / "hold", base=tmp_path / "base", to=90, method="hold", keep=("none",))
    loaded, info = AutoModelForImageTextToText.from_pretrained(tmp_path / "hold", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    torch.testing.assert_close(logits(loaded), logits(model))


LLAMA = {**SHAPE, "num_attention_heads": 4, "num_key_value_heads": 2}
TITAN = {
    "self_attn.q_proj": "attention.qkv_linear.wq",
    "self_attn.k_proj": "attention.qkv_linear.wk",
    "self_attn.v_proj": "attention.qkv_linear.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}


def of_torchtitan(model) -> dict[str, torch.Tensor]:
    """A Llama's weights as torchtitan's own state_dict_adapter takes them in (`from_hf`)."""
    found = {}
    for name, value in model.state_dict().items():
        short = name.removeprefix("model.").replace("embed_tokens", "tok_embeddings")
        heads = {"q_proj": 4, "k_proj": 2}.get(name.split(".")[-2])
        if heads:
            rows, columns = value.shape
            value = value.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)
        for theirs, ours in TITAN.items():
            short = short.replace(theirs, ours)
        found[short] = value.clone()
    return found


@pytest.mark.parametrize("last_in_hugging_face", [False, True])
def test_torchtitan(tmp_path: Path, last_in_hugging_face: bool) -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**LLAMA))
    model.save_pretrained(tmp_path / "base")

    def save(folder: Path) -> None:
        if last_in_hugging_face and folder.name.endswith(str(STEPS[-1])):
            model.save_pretrained(folder)
            (folder / "config.json").unlink()
        else:
            dcp.save(of_torchtitan(model), checkpoint_id=folder, no_dist=True)

    run = run_of(tmp_path / "run", model, save)
    trajectory = open_trajectory(run, base=tmp_path / "base")
    assert trajectory.steps == (0, *STEPS)
    for name, value in model.state_dict().items():
        assert torch.equal(values(trajectory, name), value)
    assert_holds(run, tmp_path / "hold", logits(model), base=tmp_path / "base")
    alone = open_trajectory(run)  # without a configuration the order of rows is not known
    assert alone.parameters == trajectory.parameters
    if last_in_hugging_face:
        assert alone.steps == STEPS[:-1]
        assert "'tok_embeddings.weight'" in alone.skipped[STEPS[-1]]


def test_an_odd_checkpoint_does_not_shrink_the_run(tmp_path: Path) -> None:
    model = qwen2()
    run = run_of(tmp_path / "run", model, model.save_pretrained)
    other = qwen2()
    other.save_pretrained(run / "checkpoint-50")
    state = load_file(run / "checkpoint-50" / "model.safetensors")
    renamed = {name if name == "lm_head.weight" else f"net.{name}x": value for name, value in state.items()}
    save_file(renamed, run / "checkpoint-50" / "model.safetensors", {"format": "pt"})
    trajectory = open_trajectory(run)
    assert trajectory.steps == STEPS
    assert "other names or another model" in trajectory.skipped[50]
    with pytest.raises(
        InputError, match=r"--base .* shares .* of the weights.*give the model that this run began with"
    ):
        open_trajectory(run, base=run / "checkpoint-50")


def test_what_has_no_counterpart_is_counted_and_said(tmp_path: Path) -> None:
    model = qwen2()

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        if folder.name == "checkpoint-20":
            state = load_file(folder / "model.safetensors")
            state["other.head"] = state.pop("lm_head.weight")
            save_file(state, folder / "model.safetensors", {"format": "pt"})

    run = run_of(tmp_path / "run", model, save)
    summary = driftline.analyze(run, tmp_path / "out")
    assert summary.parameters.total == sum(parameter.numel() for parameter in model.parameters())
    assert summary.parameters.left_out == 64 * 32
    assert "8% of the weights are left out" in summary.verdict.sentence
    with pytest.raises(InputError, match=r"'lm_head.weight' is in .* but absent at step 20"):
        forecast(run, tmp_path / "hold", method="least-squares")


def test_ambiguous_names_are_not_matched(tmp_path: Path) -> None:
    def held(*names: str) -> dict[str, Stored]:
        save_file({name: torch.zeros(2, 2) for name in names}, tmp_path / "x.safetensors")
        return read_header(tmp_path / "x.safetensors")

    assert "a.w" not in as_named(held("model.a.w", "language_model.a.w"), held("a.w"))


def test_moving_a_model_moves_its_names(tmp_path: Path) -> None:
    """The written names are those of the last checkpoint."""
    model = qwen3_moe()
    model.save_pretrained(tmp_path / "base")
    for step in moving(model.parameters()):
        in_memory(tmp_path / "run" / f"checkpoint-{step}", model)
    names = written(forecast(tmp_path / "run", tmp_path / "out", method="two-point", base=tmp_path / "base"))
    assert "model.layers.0.mlp.experts.gate_up_proj" in names
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "qwen3_moe"


def test_experts_stacked_by_projection(tmp_path: Path) -> None:
    """prime-rl's own format of a mixture: each projection of all experts in one tensor, and a router around the gate."""
    model = qwen3_moe()
    model.save_pretrained(tmp_path / "base")

    def save(folder: Path) -> None:
        found: dict[str, torch.Tensor] = {}
        for name, value in model.state_dict().items():
            if name.endswith("gate_up_proj"):
                gate, up = value.chunk(2, dim=1)
                found |= {name.replace("gate_up_proj", "w1"): gate, name.replace("gate_up_proj", "w3"): up}
            else:
                name = name.replace("experts.down_proj", "experts.w2").replace("mlp.gate.", "mlp.router.gate.")
                found[name] = value
        found = {f"app.model.{name}": value.clone() for name, value in found.items()}
        dcp.save(found, checkpoint_id=folder / "trainer", no_dist=True)

    run = run_of(tmp_path / "run", model, save)
    trajectory = open_trajectory(run, base=tmp_path / "base")
    assert trajectory.unmeasured == 0
    one = "model.layers.0.mlp.experts.2.gate_proj.weight"  # the base's name, as its configuration is the only one
    gate = model.state_dict()["model.layers.0.mlp.experts.gate_up_proj"].chunk(2, dim=1)[0][2]
    assert torch.equal(values(trajectory, one), gate)
    assert_holds(run, tmp_path / "hold", logits(model), base=tmp_path / "base")


def test_a_base_saved_without_its_head(tmp_path: Path) -> None:
    """GPT-2 on the Hub names its blocks `h.0`, what is trained of it `transformer.h.0`."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2, n_positions=32))
    model.transformer.save_pretrained(tmp_path / "base")
    run = run_of(tmp_path / "run", model, model.save_pretrained)
    assert open_trajectory(run, base=tmp_path / "base").unmeasured == 0
    assert_holds(run, tmp_path / "hold", logits(model), base=tmp_path / "base")
