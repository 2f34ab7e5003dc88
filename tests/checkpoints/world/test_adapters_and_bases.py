"""Adapters on bases that name, join, tie, quantise or turn their weights otherwise; and what is no LoRA at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import torch.distributed.checkpoint as dcp
from moving_models import STEPS, assert_holds, forecast, logits, lora, qwen2, run_of
from safetensors.torch import load_file, save_file
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
)

import driftline
from driftline.checkpoints.trajectory import open_trajectory
from driftline.errors import InputError

pytestmark = pytest.mark.usefixtures("quiet_libraries")


def neox() -> GPTNeoXForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(vocab_size=64, max_position_embeddings=64, tie_word_embeddings=False, **shape)
    )


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=32))


def in_memory(model: Any, settings: Any = None):
    def save(folder: Path) -> None:
        dcp.save({"model": model.state_dict()}, checkpoint_id=folder / "pytorch_model_fsdp_0", no_dist=True)
        model.config.save_pretrained(folder)
        if settings is not None:
            settings.save_pretrained(folder)

    return save


def joined(name: str, parts: tuple[str, ...], folder: Path) -> None:
    """A folder's projections as one tensor."""
    state = load_file(folder / "model.safetensors")
    for first in [key for key in state if f".{parts[0]}." in key]:
        names = [first.replace(parts[0], part) for part in parts]
        state[first.replace(parts[0], name)] = torch.cat([state.pop(one) for one in names])
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def test_a_head_by_another_name(tmp_path: Path) -> None:
    """Pythia's file says `embed_out`, the model in memory `lm_head`."""
    model = neox()
    model.save_pretrained(tmp_path / "base")
    assert "embed_out.weight" in load_file(tmp_path / "base" / "model.safetensors")
    run = run_of(tmp_path / "run", model, in_memory(model))
    assert open_trajectory(run, base=tmp_path / "base").unmeasured == 0
    assert_holds(run, tmp_path / "hold", logits(model), base=tmp_path / "base")


@pytest.mark.parametrize(
    "settings", [{"target_modules": ["query_key_value", "lm_head"]}, {"modules_to_save": ["lm_head"]}]
)
def test_an_adapter_on_that_head(tmp_path: Path, settings: dict[str, Any]) -> None:
    neox().save_pretrained(tmp_path / "base")
    model = lora(neox(), **{"target_modules": ["query_key_value"], **settings})
    run = run_of(tmp_path / "run", model, model.save_pretrained)
    assert_holds(run, tmp_path / "hold", logits(model), base=tmp_path / "base")


def test_a_base_whose_name_is_not_known_is_not_written_over_the_run(tmp_path: Path) -> None:
    model = qwen2()
    model.save_pretrained(tmp_path / "base")
    state = load_file(tmp_path / "base" / "model.safetensors")
    state["model.other.weight"] = state.pop("model.layers.0.mlp.up_proj.weight")
    save_file(state, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    run = run_of(tmp_path / "run", model, model.save_pretrained)
    assert open_trajectory(run, base=tmp_path / "base").carried == {}
    with pytest.raises(InputError, match="absent at step"):
        forecast(run, tmp_path / "out", base=tmp_path / "base", method="two-point", from_=(0, 40))


@pytest.mark.parametrize(
    ("name", "parts"), [("qkv_proj", ("q_proj", "k_proj", "v_proj")), ("gate_up_proj", ("gate_proj", "up_proj"))]
)
def test_adapters_of_projections_that_the_base_has_joined(tmp_path: Path, name: str, parts: tuple[str, ...]) -> None:
    qwen2().save_pretrained(tmp_path / "apart")
    qwen2().save_pretrained(tmp_path / "joined")
    joined(name, parts, tmp_path / "joined")
    model = lora(qwen2(), target_modules=list(parts))
    run = run_of(tmp_path / "run", model, model.save_pretrained)
    one = driftline.analyze(run, tmp_path / "one", base=tmp_path / "apart")
    other = driftline.analyze(run, tmp_path / "other", base=tmp_path / "joined")
    torch.testing.assert_close(torch.tensor(one.gram), torch.tensor(other.gram), rtol=1e-4, atol=1e-6)
    assert f"model.layers.0.{'self_attn' if 'qkv' in name else 'mlp'}.{name}.weight" in {
        tensor.name for tensor in open_trajectory(run, base=tmp_path / "joined")
    }
    some = lora(qwen2(), target_modules=[parts[0]])
    run = run_of(tmp_path / "some", some, some.save_pretrained)
    with pytest.raises(InputError, match=r"lacks it: give the base it was trained on, with its projections"):
        open_trajectory(run, base=tmp_path / "joined")


def test_adapters_of_joined_projections_on_a_base_that_has_them_apart(tmp_path: Path) -> None:
    def phi3() -> Phi3ForCausalLM:
        torch.manual_seed(0)
        shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
        return Phi3ForCausalLM(Phi3Config(vocab_size=64, num_key_value_heads=2, pad_token_id=0, **shape))

    for folder in ("joined", "apart"):
        phi3().save_pretrained(tmp_path / folder)
    state = load_file(tmp_path / "apart" / "model.safetensors")
    for name in [key for key in state if "qkv_proj" in key]:
        for part, rows in zip(("q_proj", "k_proj", "v_proj"), state.pop(name).chunk(3), strict=True):
            state[name.replace("qkv_proj", part)] = rows.clone()
    save_file(state, tmp_path / "apart" / "model.safetensors", {"format": "pt"})
    model = lora(phi3(), target_modules=["qkv_proj", "o_proj"])
    run = run_of(tmp_path / "run", model, model.save_pretrained)
    one, other = (driftline.analyze(run, tmp_path / f"of-{base}", base=tmp_path / base) for base in ("joined", "apart"))
    torch.testing.assert_close(torch.tensor(one.gram), torch.tensor(other.gram), rtol=1e-4, atol=1e-6)


def test_layers_of_both_kinds_under_one_flag(tmp_path: Path) -> None:
    """GPT-2's blocks store [in, out], its head [out, in]; peft has one fan_in_fan_out for both."""
    gpt2().save_pretrained(tmp_path / "base")
    model = lora(gpt2(), target_modules=["attn.c_proj", "lm_head"])
    run = run_of(tmp_path / "run", model, model.save_pretrained)
    assert_holds(run, tmp_path / "hold", logits(model), base=tmp_path / "base")
    again = lora(gpt2(), target_modules=["attn.c_proj", "c_attn", "wte"])
    run = run_of(tmp_path / "again", again, in_memory(again, again.peft_config["default"]))
    assert_holds(run, tmp_path / "hold-again", logits(again))


def test_dora(tmp_path: Path) -> None:
    qwen2().save_pretrained(tmp_path / "base")
    model = lora(qwen2(), use_dora=True, init_lora_weights="pissa")
    model.save_pretrained(tmp_path / "run" / "checkpoint-0")
    run = run_of(tmp_path / "run", model, model.save_pretrained)
    assert_holds(run, tmp_path / "hold", logits(model), base=tmp_path / "base")
    with pytest.raises(InputError, match="is a DoRA adapter, which cannot be measured without the weights"):
        driftline.analyze(run, tmp_path / "out")


def test_pissa_that_was_converted_in_the_end(tmp_path: Path) -> None:
    qwen2().save_pretrained(tmp_path / "base")
    model = lora(qwen2(), init_lora_weights="pissa")
    model.save_pretrained(tmp_path / "run" / "checkpoint-0")

    def save(folder: Path) -> None:
        last = folder.name == f"checkpoint-{STEPS[-1]}"
        at = {"path_initial_model_for_weight_conversion": str(tmp_path / "run" / "checkpoint-0")} if last else {}
        model.save_pretrained(folder, **at)

    run = run_of(tmp_path / "run", model, save)
    loaded = peft.PeftModel.from_pretrained(qwen2(), run / f"checkpoint-{STEPS[-1]}")
    assert_holds(run, tmp_path / "hold", logits(loaded), base=tmp_path / "base")


@pytest.mark.parametrize("tied", [False, True])
def test_rows_of_tokens_in_a_whole_state(tmp_path: Path, tied: bool) -> None:
    model = lora(qwen2(tied=tied), trainable_token_indices={"embed_tokens": [1, 5, 60]})
    run = run_of(tmp_path / "run", model, in_memory(model, model.peft_config["default"]))
    assert_holds(run, tmp_path / "hold", logits(model))


def test_rows_of_tokens_as_a_list_for_whatever_the_embedding_is_called(tmp_path: Path) -> None:
    gpt2().save_pretrained(tmp_path / "base")
    model = lora(gpt2(), target_modules=["c_attn"], trainable_token_indices={"wte": [3, 7]})

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        file = folder / "adapter_config.json"
        text = file.read_text()
        start = text.index('"trainable_token_indices"')
        file.write_text(text[:start] + '"trainable_token_indices": [3, 7]' + text[text.index("}", start) + 1 :])

    run = run_of(tmp_path / "run", model, save)
    assert_holds(run, tmp_path / "hold", logits(model), base=tmp_path / "base")


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_a_tie_that_the_adapter_keeps(tmp_path: Path, target: str) -> None:
    qwen2(tied=True).save_pretrained(tmp_path / "base")
    model = lora(qwen2(tied=True), target_modules=[target, "q_proj"], ensure_weight_tying=True)
    run = run_of(tmp_path / "run", model, model.save_pretrained)
    loaded = peft.PeftModel.from_pretrained(qwen2(tied=True), run / f"checkpoint-{STEPS[-1]}")
    assert_holds(run, tmp_path / "hold", logits(loaded), base=tmp_path / "base")


@pytest.mark.parametrize("tied", [False, True])
def test_half_of_a_resized_vocabulary_is_refused(tmp_path: Path, tied: bool) -> None:
    qwen2(tied=tied).save_pretrained(tmp_path / "base")
    resized = qwen2(tied=tied)
    resized.resize_token_embeddings(70)
    model = lora(resized, modules_to_save=["embed_tokens"])
    run = run_of(tmp_path / "run", model, model.save_pretrained)
    with pytest.raises(InputError, match=r"70 rows of 'model.embed_tokens.weight' and 64 of 'lm_head.weight'"):
        open_trajectory(run, base=tmp_path / "base")


def test_a_value_head_beside_an_adapter(tmp_path: Path) -> None:
    qwen2().save_pretrained(tmp_path / "base")
    model = lora(qwen2())

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        torch.save({"v_head.summary.weight": torch.randn(1, 32)}, folder / "pytorch_model.bin")

    run = run_of(tmp_path / "run", model, save)
    assert_holds(run, tmp_path / "hold", logits(model), base=tmp_path / "base")


KINDS = {
    "IA3": peft.IA3Config(target_modules=["q_proj"], feedforward_modules=[]),
    "LoHa": peft.LoHaConfig(target_modules=["q_proj"]),
    "VeRA": peft.VeraConfig(target_modules=["q_proj"], r=4),
    "LN tuning": peft.LNTuningConfig(target_modules=["input_layernorm"]),
}


@pytest.mark.parametrize("said", [True, False], ids=["with its configuration", "alone"])
@pytest.mark.parametrize("kind", KINDS)
def test_adapters_that_are_no_lora_in_a_whole_state(tmp_path: Path, kind: str, said: bool) -> None:
    model = peft.get_peft_model(qwen2(), KINDS[kind])
    run = run_of(tmp_path / "run", model, in_memory(model, KINDS[kind] if said else None))
    with pytest.raises(InputError, match=r"not of a LoRA adapter|adapter of peft that is not LoRA"):
        open_trajectory(run)


def test_fp8_below_adapters(tmp_path: Path) -> None:
    base = qwen2()
    base.save_pretrained(tmp_path / "base")
    state = load_file(tmp_path / "base" / "model.safetensors")
    for name in [key for key in state if key.endswith("_proj.weight")]:
        scale = state[name].abs().max() / 448
        state |= {name: (state[name] / scale).to(torch.float8_e4m3fn), f"{name}_scale_inv": scale.reshape(1, 1)}
    save_file(state, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    base.config.quantization_config = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    base.config.save_pretrained(tmp_path / "base")
    model = lora(qwen2(), target_modules="all-linear")
    run = run_of(tmp_path / "run", model, model.save_pretrained)
    out = forecast(run, tmp_path / "hold", method="hold", base=tmp_path / "base")
    assert "quantization_config" not in (out / "config.json").read_text()
    assert {value.dtype for value in load_file(out / "model.safetensors").values()} <= {torch.bfloat16, torch.float32}


def test_names_that_begin_as_a_state_does(tmp_path: Path) -> None:
    """Models whose own parameters are called `model.transformer...`, in their own folder."""
    names = {f"model.transformer.blocks.{layer}.ff.weight" for layer in range(2)} | {"model.transformer.wte.weight"}
    for step in STEPS:
        folder = tmp_path / "run" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        save_file({name: torch.full((3, 3), float(step)) for name in names}, folder / "model.safetensors")
        (folder / "config.json").write_text("{}")
    assert (
        set(load_file(forecast(tmp_path / "run", tmp_path / "out", method="two-point") / "model.safetensors")) == names
    )


def test_a_tie_to_an_embedding_by_another_name(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=16, state_size=4, num_hidden_layers=1))
    run = run_of(tmp_path / "run", model, in_memory(model))
    assert open_trajectory(run).parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("key", ["model", "state_dict", "module"])
@pytest.mark.parametrize("loose", [False, True])
def test_a_state_dict_among_other_things(tmp_path: Path, key: str, loose: bool) -> None:
    model = qwen2()

    def save(folder: Path) -> None:
        more = {"ema_decay": torch.tensor(0.999), "rng": torch.zeros(8, dtype=torch.uint8)} if loose else {}
        torch.save({key: model.state_dict(), "step": 3, **more}, folder / "pytorch_model.bin")
        model.config.save_pretrained(folder)

    run = run_of(tmp_path / "run", model, save)
    assert_holds(run, tmp_path / "hold", logits(model))
