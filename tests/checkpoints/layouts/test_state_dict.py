"""`pytorch_model.bin`, in one file or in shards, and `adapter_model.bin`: read where they lie, nothing executed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from driftline.checkpoints.trajectory import open_trajectory
from driftline.outputs.checkpoint_model import load_checkpoint

BIN, INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


def qwen(seed: int) -> Qwen2ForCausalLM:
    torch.manual_seed(seed)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=97,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        )
    )


def save(folder: Path, model: Qwen2ForCausalLM, shards: int) -> None:
    folder.mkdir(parents=True)
    model.config.save_pretrained(folder)
    state = model.state_dict()
    if shards == 1:
        torch.save(state, folder / BIN)
        return
    names = [f"pytorch_model-{n:05}-of-{shards:05}.bin" for n in range(1, shards + 1)]
    weight_map = {key: names[number % shards] for number, key in enumerate(state)}
    for name in names:
        torch.save({key: state[key] for key in state if weight_map[key] == name}, folder / name)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_tensor_is_read_back(tmp_path: Path, shards: int, dtype: torch.dtype) -> None:
    models = {step: qwen(step).to(dtype) for step in (1, 2, 3)}
    for step, model in models.items():
        save(tmp_path / f"checkpoint-{step}", model, shards)
    trajectory = open_trajectory(tmp_path)
    assert {checkpoint.layout for checkpoint in trajectory.checkpoints} == {"torch-state-dict"}
    assert {tensor.name for tensor in trajectory} == {name for name, _ in models[1].named_parameters()}  # tied: once
    for tensor in trajectory:
        for info, model in zip(tensor.stored, models.values(), strict=True):
            expected = model.state_dict()[tensor.name].float().numpy().reshape(-1)
            np.testing.assert_array_equal(info.values(0, info.size), expected)
    loaded, ids = load_checkpoint(trajectory.checkpoints[1]), torch.arange(9)[None]
    assert torch.equal(loaded(ids).logits, models[2].eval()(ids).logits)


def test_safetensors_beside_it_are_read_first(tmp_path: Path) -> None:
    save(tmp_path / "checkpoint-1", qwen(1), 1)
    qwen(2).save_pretrained(tmp_path / "checkpoint-1")
    (checkpoint,) = open_trajectory(tmp_path).checkpoints
    assert checkpoint.layout == "huggingface"
    assert "holds huggingface and torch-state-dict: huggingface is read" in checkpoint.notes[0]


def test_nothing_is_executed_and_damage_is_named(tmp_path: Path) -> None:
    for step in range(1, 7):
        save(tmp_path / f"checkpoint-{step}", qwen(step), 1 + (step > 3))
    planted = tmp_path / "planted"

    class Plant:
        def __reduce__(self):
            return os.system, (f"touch {planted}",)

    torch.save({"x": Plant()}, tmp_path / "checkpoint-2" / BIN)
    os.truncate(tmp_path / "checkpoint-3" / BIN, 2000)
    (tmp_path / "checkpoint-4" / "pytorch_model-00002-of-00002.bin").unlink()
    index = tmp_path / "checkpoint-5" / INDEX
    index.write_text(index.read_text().replace("pytorch_model-00002", "../pytorch_model-00002"))
    trajectory = open_trajectory(tmp_path)
    assert not planted.exists()
    assert trajectory.steps == (1, 6)
    assert "holds no tensors" in trajectory.skipped[2]
    assert "is not a whole file of torch.save" in trajectory.skipped[3]
    assert "lacks the shard pytorch_model-00002-of-00002.bin" in trajectory.skipped[4]
    assert "which is outside its folder" in trajectory.skipped[5]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_an_adapter_is_the_same_from_either_file(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(qwen(0), peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "checkpoint-1")
    shutil.copytree(tmp_path / "checkpoint-1", tmp_path / "checkpoint-2")
    weights = tmp_path / "checkpoint-2" / "adapter_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    trajectory = open_trajectory(tmp_path)
    assert trajectory.steps == (1, 2)
    for tensor in trajectory:
        first, second = (info.values(0, info.size) for info in tensor.stored)
        assert first.any()
        np.testing.assert_array_equal(first, second)
