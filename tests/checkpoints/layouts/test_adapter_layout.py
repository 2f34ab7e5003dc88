"""Adapters that peft wrote: the trajectory is that of scale·B·A, as peft itself merges it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Qwen2Config, Qwen2ForCausalLM

from driftline.checkpoints.trajectory import open_trajectory
from driftline.errors import InputError
from driftline.forecast.request import ForecastRequest
from driftline.linearity.scan import scan
from driftline.writing.extrapolate import extrapolate
from driftline.writing.storage import Storage

peft = pytest.importorskip("peft")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*save_embedding_layers.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*fan_in_fan_out.*:UserWarning"),
]
KINDS = {
    "plain": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"]},
    "rank-stabilised, ranks and scales by module": {
        "r": 4,
        "lora_alpha": 3,
        "use_rslora": True,
        "target_modules": ["q_proj", "down_proj", "v_proj"],
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"layers.1.self_attn.v_proj": 7},
    },
    "embeddings and a head trained whole": {
        "r": 3,
        "target_modules": ["q_proj", "embed_tokens"],
        "modules_to_save": ["lm_head"],
    },
}


def qwen() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=97,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=False,
        )
    )


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=97, n_embd=16, n_layer=2, n_head=2, n_positions=32))


def run_of_adapters(folder: Path, build, steps=(10, 20, 30, 40), **config) -> dict[int, dict[str, np.ndarray]]:
    """A base, adapters at some steps as TRL lays them out, and the weights that peft merges of each."""
    build().save_pretrained(folder / "base")
    merged = {}
    for step in steps:
        model = peft.get_peft_model(build(), peft.LoraConfig(**config))
        torch.manual_seed(7)
        with torch.no_grad():
            for weights in model.parameters():
                if weights.requires_grad:  # A moves too, so that the product is not linear in the step
                    weights += step / 100 * torch.randn_like(weights)
        model.save_pretrained(str(folder / "run" / f"checkpoint-{step}"))
        (folder / "run" / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
        merged[step] = {k: v.numpy().copy() for k, v in model.merge_and_unload().state_dict().items()}
    return merged


@pytest.mark.parametrize("kind", KINDS)
def test_on_its_base_it_is_what_peft_merges(tmp_path, kind):
    merged = run_of_adapters(tmp_path, qwen, **KINDS[kind])
    trajectory = open_trajectory(tmp_path / "run", base=tmp_path / "base")
    assert trajectory.steps == (0, 10, 20, 30, 40)
    assert {tensor.name for tensor in trajectory} == set(merged[10])
    for tensor in trajectory:
        for step, info in zip(trajectory.steps[1:], tensor.stored[1:], strict=True):
            expected = merged[step][tensor.name].reshape(-1)
            np.testing.assert_allclose(info.values(0, info.size), expected, rtol=3e-7, atol=3e-7)
            np.testing.assert_allclose(info.values(2, info.size - 1), expected[2:-1], rtol=3e-7, atol=3e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_without_its_base_it_is_the_change(tmp_path, kind):
    merged = run_of_adapters(tmp_path, qwen, **KINDS[kind])
    base = {name: value.numpy() for name, value in qwen().state_dict().items()}
    trajectory = open_trajectory(tmp_path / "run")
    whole = {"lm_head.weight", "model.embed_tokens.weight"} if "whole" in kind else set()  # peft saves embeddings too
    changed = {name for name in base if not np.array_equal(merged[40][name], base[name])}
    assert {tensor.name for tensor in trajectory} == changed
    for tensor in trajectory:
        expected = merged[40][tensor.name] - (0 if tensor.name in whole else base[tensor.name])
        assert tensor.shape == expected.shape
        found = tensor.stored[-1].values(0, tensor.size)
        np.testing.assert_allclose(found, expected.reshape(-1), rtol=3e-7, atol=2e-6)  # the merged weights are rounded


def test_layers_that_store_their_weight_transposed(tmp_path):
    merged = run_of_adapters(tmp_path, gpt2, r=4, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)
    trajectory = open_trajectory(tmp_path / "run", base=tmp_path / "base")
    for tensor in trajectory:
        name = tensor.name if tensor.name in merged[40] else f"transformer.{tensor.name}"
        expected = merged[40][name].reshape(-1)
        np.testing.assert_allclose(tensor.stored[-1].values(0, tensor.size), expected, rtol=3e-7, atol=3e-7)


def test_the_scan_measures_the_product(tmp_path):
    merged = run_of_adapters(tmp_path, qwen, **KINDS["plain"])
    measured = {tensor.name: tensor for tensor in scan(open_trajectory(tmp_path / "run"))}
    for name, tensor in measured.items():
        deltas = np.stack([(merged[step][name] - merged[10][name]).reshape(-1) for step in merged]).astype(float)
        np.testing.assert_allclose(tensor.gram, deltas @ deltas.T, rtol=1e-3, atol=1e-9)
        assert tensor.start_square == 0, "what a product is at its first checkpoint says nothing of its weights"
        assert not tensor.along_start.any()


def test_a_forecast_is_written_as_a_model_on_the_base(tmp_path):
    merged = run_of_adapters(tmp_path, qwen, **KINDS["plain"])
    trajectory = open_trajectory(tmp_path / "run", base=tmp_path / "base")
    request = ForecastRequest((60,), "two-point", (20, 40))
    extrapolate(trajectory, tmp_path / "forecast", request, Storage(keep=()))
    model = Qwen2ForCausalLM.from_pretrained(tmp_path / "forecast")
    for name, value in model.state_dict().items():
        np.testing.assert_allclose(value.numpy(), 2 * merged[40][name] - merged[20][name], rtol=0, atol=2e-6)


def test_without_its_base_no_model_can_be_written(tmp_path):
    run_of_adapters(tmp_path, qwen, **KINDS["plain"])
    request = ForecastRequest((60,), "two-point")
    with pytest.raises(InputError, match=r"are LoRA adapters.*--base"):
        extrapolate(open_trajectory(tmp_path / "run"), tmp_path / "forecast", request)
    assert not (tmp_path / "forecast").exists()


def test_the_wrong_base_is_refused(tmp_path):
    run_of_adapters(tmp_path, qwen, **KINDS["plain"])
    gpt2().save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match=r"lacks it: give the base it was trained on"):
        open_trajectory(tmp_path / "run", base=tmp_path / "other", strict=True)


@pytest.mark.filterwarnings("ignore:.*invalid shape")  # peft's own, of its biases
@pytest.mark.parametrize("option", [{"lora_bias": True}])
def test_other_kinds_of_adapters_are_refused(tmp_path, option):
    run_of_adapters(tmp_path, qwen, **{**KINDS["plain"], "target_modules": ["q_proj"], **option})
    with pytest.raises(InputError, match="merge each checkpoint with peft's merge_and_unload"):
        open_trajectory(tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda config: config.pop("lora_alpha"), "has no number as lora_alpha"),
        (lambda config: config.update(peft_type="IA3"), "not of a LoRA adapter"),
        (lambda config: config.update(target_parameters=["w"]), "target_parameters"),
    ],
)
def test_a_configuration_that_does_not_say_the_scale(tmp_path, change, complaint):
    run_of_adapters(tmp_path, qwen, steps=(10,), **KINDS["plain"])
    path = tmp_path / "run" / "checkpoint-10" / "adapter_config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match=complaint):
        open_trajectory(tmp_path / "run")


def test_a_whole_model_beside_an_adapter_is_what_is_read(tmp_path):
    run_of_adapters(tmp_path, qwen, steps=(10, 20), **KINDS["plain"])
    for step in (10, 20):
        qwen().save_pretrained(tmp_path / "run" / f"checkpoint-{step}")
    trajectory = open_trajectory(tmp_path / "run")
    assert {checkpoint.layout for checkpoint in trajectory.checkpoints} == {"huggingface"}
    assert "holds huggingface and lora-adapter: huggingface is read" in trajectory.checkpoints[0].notes[0]
