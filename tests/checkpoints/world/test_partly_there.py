"""Tensors that only some checkpoints have, that say nothing, or that are one under two names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from moving_models import STEPS, assert_holds, forecast, logits, qwen2, run_of, written
from safetensors.torch import load_file, save_file
from transformers import GemmaConfig, GemmaForCausalLM, GPT2Config, GPT2LMHeadModel

import driftline
from driftline.checkpoints.trajectory import open_trajectory
from driftline.errors import InputError

pytestmark = pytest.mark.usefixtures("quiet_libraries")


def with_tensors(folder: Path, more: dict[str, torch.Tensor]) -> None:
    state = load_file(folder / "model.safetensors")
    save_file(state | more, folder / "model.safetensors", {"format": "pt"})


MORE = {
    "draft heads": {"mtp.fc.weight": torch.randn(32, 64), "mtp.norm.weight": torch.ones(32)},
    "rotary buffers": {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.rand(8) for i in range(2)},
    "a head that was dropped": {"score.weight": torch.randn(1, 32)},
}


@pytest.mark.parametrize("kind", MORE)
def test_tensors_of_the_base_alone_are_carried_over(tmp_path: Path, kind: str) -> None:
    model = qwen2()
    model.save_pretrained(tmp_path / "base")
    with_tensors(tmp_path / "base", MORE[kind])
    run = run_of(tmp_path / "run", model, model.save_pretrained)
    extra = tuple(sorted(name for name in MORE[kind] if "inv_freq" not in name))  # which transformers passes over
    assert_holds(run, tmp_path / "hold", logits(model), base=tmp_path / "base", extra=extra)
    far = forecast(run, tmp_path / "far", base=tmp_path / "base", method="two-point", from_=(20, 40))
    for name, value in MORE[kind].items():
        assert torch.equal(written(far)[name], value)
    recipe = json.loads((far / "driftline.json").read_text())
    assert recipe["copied"] == list(MORE[kind])
    assert recipe["carried"] == sorted(MORE[kind])
    summary = driftline.analyze(run, tmp_path / "out", base=tmp_path / "base")
    assert set(summary.left_out) == set(MORE[kind])
    assert summary.parameters.total == summary.parameters.measured


def test_a_buffer_that_the_base_lacks_is_copied_from_the_last(tmp_path: Path) -> None:
    model = qwen2()
    model.save_pretrained(tmp_path / "base")

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        with_tensors(folder, {"model.rotary.inv_freq": torch.arange(8.0)})

    run = run_of(tmp_path / "run", model, save)
    out = forecast(run, tmp_path / "out", base=tmp_path / "base", method="two-point", from_=(0, 40))
    assert torch.equal(written(out)["model.rotary.inv_freq"], torch.arange(8.0))


def test_weights_that_the_base_lacks_are_not(tmp_path: Path) -> None:
    model = qwen2()
    model.save_pretrained(tmp_path / "base")

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        with_tensors(folder, {"model.more.weight": torch.randn(64, 64)})

    run = run_of(tmp_path / "run", model, save)
    with pytest.raises(InputError, match=r"'model.more.weight' is in .* but absent at step 0"):
        forecast(run, tmp_path / "out", base=tmp_path / "base", method="two-point", from_=(0, 40))


@pytest.mark.parametrize("dtype", [torch.float8_e8m0fnu, torch.complex64, torch.float8_e4m3fnuz])
def test_one_tensor_of_an_odd_dtype_is_left_out_alone(tmp_path: Path, dtype: torch.dtype) -> None:
    model = qwen2()

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        with_tensors(folder, {"model.layers.0.extra": torch.ones(4).to(dtype)})

    run = run_of(tmp_path / "run", model, save)
    trajectory = open_trajectory(run)
    assert trajectory.steps == STEPS
    assert "is not a floating one" in trajectory.left_out["model.layers.0.extra"]
    out = forecast(run, tmp_path / "out", method="two-point")
    assert written(out)["model.layers.0.extra"].dtype == dtype


def test_a_dtype_that_nobody_knows(tmp_path: Path) -> None:
    model = qwen2()

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        file = folder / "model.safetensors"
        with_tensors(folder, {"model.layers.0.extra": torch.ones(4, dtype=torch.int64)})
        file.write_bytes(file.read_bytes().replace(b'"I64"', b'"Z64"'))

    run = run_of(tmp_path / "run", model, save)
    assert "dtype Z64 is not a floating one" in open_trajectory(run).left_out["model.layers.0.extra"]
    assert_holds(run, tmp_path / "hold", logits(model))


@pytest.mark.parametrize("value", [float("-inf"), float("nan")])
def test_a_constant_buffer_that_is_not_finite_is_left_out(tmp_path: Path, value: float) -> None:
    model = qwen2()
    mask = torch.full((8, 8), value).triu(1)

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        with_tensors(folder, {"model.layers.0.self_attn.mask": mask})

    run = run_of(tmp_path / "run", model, save)
    summary = driftline.analyze(run, tmp_path / "out")
    assert "holds infinity or NaN, the same in every" in summary.left_out["model.layers.0.self_attn.mask"]
    out = forecast(run, tmp_path / "far", method="two-point")
    np.testing.assert_array_equal(written(out)["model.layers.0.self_attn.mask"], mask)


def test_a_weight_that_becomes_infinite_is_still_refused(tmp_path: Path) -> None:
    model = qwen2()
    run = run_of(tmp_path / "run", model, model.save_pretrained)
    with_tensors(run / "checkpoint-30", {"model.norm.weight": torch.full((32,), float("inf"))})
    with pytest.raises(InputError, match="not finite"):
        driftline.analyze(run, tmp_path / "out")


def test_placeholders_of_zero_3_are_named(tmp_path: Path) -> None:
    model = qwen2()

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        with_tensors(folder, {name: torch.empty(0) for name in model.state_dict()})

    with pytest.raises(InputError, match=r"placeholders of shape \[0\] for 27 of 27 tensors: DeepSpeed ZeRO-3 saved"):
        open_trajectory(run_of(tmp_path / "run", model, save))


def test_a_configuration_that_ties_what_differs(tmp_path: Path) -> None:
    model = qwen2(tied=False)

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))

    run = run_of(tmp_path / "run", model, save)
    assert open_trajectory(run).parameters == sum(parameter.numel() for parameter in model.parameters())
    assert_holds(run, tmp_path / "hold", logits(model))
    assert json.loads((tmp_path / "hold" / "config.json").read_text())["tie_word_embeddings"] is False


def test_a_head_that_was_untied_in_training(tmp_path: Path) -> None:
    """The base stores one of the two; from step 10 on they differ."""
    qwen2(tied=True).save_pretrained(tmp_path / "base")
    model = qwen2(tied=False)
    run = run_of(tmp_path / "run", model, model.save_pretrained)
    trajectory = open_trajectory(run, base=tmp_path / "base")
    before = trajectory["lm_head.weight"].stored[0].values(0, 64)
    np.testing.assert_array_equal(before, trajectory["model.embed_tokens.weight"].stored[0].values(0, 64))
    assert_holds(run, tmp_path / "hold", logits(model), base=tmp_path / "base")


def gemma():
    torch.manual_seed(0)
    return GemmaForCausalLM(
        GemmaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=16,
        )
    )


def gpt2():
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2, n_positions=32))


@pytest.mark.parametrize("build", [gemma, gpt2, lambda: qwen2(tied=True)], ids=["gemma", "gpt2", "qwen2"])
@pytest.mark.parametrize("configured", [True, False], ids=["as saved", "no key"])
def test_a_second_copy_of_a_tied_tensor(tmp_path: Path, build, configured: bool) -> None:
    model = build()
    truth = logits(model)

    def save(folder: Path) -> None:
        state = {name: value.detach().clone() for name, value in model.state_dict().items()}
        dcp.save({"model": state}, checkpoint_id=folder / "pytorch_model_fsdp_0", no_dist=True)
        model.config.save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
        if not configured:
            config.pop("tie_word_embeddings", None)
        (folder / "config.json").write_text(json.dumps(config))

    run = run_of(tmp_path / "run", model, save)
    trajectory = open_trajectory(run)
    assert trajectory.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert "counted once" in trajectory.left_out["lm_head.weight"]
    truth = logits(model)
    assert_holds(run, tmp_path / "hold", truth)
    forecast(run, tmp_path / "rounded", method="two-point", dtype="bfloat16", rounding="stochastic")
    there = written(tmp_path / "rounded")
    if "lm_head.weight" in there:  # rounded by chance, and alike
        embedding = next(name for name in there if name.endswith(("embed_tokens.weight", "wte.weight")))
        assert torch.equal(there["lm_head.weight"], there[embedding])


def test_equal_embeddings_that_a_configuration_unties_are_both_written(tmp_path: Path) -> None:
    model = qwen2(tied=False)
    with torch.no_grad():
        model.lm_head.weight.copy_(model.model.embed_tokens.weight)
    for step in STEPS:
        with torch.no_grad():
            model.model.layers[0].mlp.up_proj.weight += 0.01
        model.save_pretrained(tmp_path / "run" / f"checkpoint-{step}")
    assert_holds(tmp_path / "run", tmp_path / "hold", logits(model))


@pytest.mark.parametrize("shards_left", [True, False], ids=["whole shards", "an index alone"])
def test_an_index_beside_a_single_file_is_stale(tmp_path: Path, shards_left: bool) -> None:
    """A folder saved in shards first, then whole; `from_pretrained` takes the single file."""
    model = qwen2()

    def save(folder: Path) -> None:
        qwen2().save_pretrained(folder, max_shard_size="20KB")
        state = {name: value.detach().clone() for name, value in model.state_dict().items()}
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        for shard in [] if shards_left else folder.glob("model-*.safetensors"):
            shard.unlink()

    run = run_of(tmp_path / "run", model, save)
    trajectory = open_trajectory(run)
    assert trajectory.steps == STEPS
    assert "the single file is read, as from_pretrained does" in trajectory.remarks[0]
    assert_holds(run, tmp_path / "hold", logits(model))
