"""A checkpoint that transformers cannot load by itself runs as the model it stands for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from driftline import InputError, open_trajectory
from driftline.outputs.checkpoint_model import load_checkpoint

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


def qwen(**changes) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 97, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    return Qwen2ForCausalLM(Qwen2Config(**{**sizes, **heads, **changes}))


def adapter(folder: Path, dtype: torch.dtype = torch.float32) -> Qwen2ForCausalLM:
    """A base and one adapter on it, and the merged model."""
    qwen().to(dtype).save_pretrained(folder / "base")
    model = peft.get_peft_model(qwen(), peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    with torch.no_grad():
        for weights in model.parameters():
            if weights.requires_grad:
                weights += 0.1 * torch.randn_like(weights)
    model.save_pretrained(str(folder / "run" / "checkpoint-5"))
    return model.merge_and_unload().eval()


def test_a_remote_adapter_on_its_remote_base(tmp_path: Path, upload: Callable[[Path], str]) -> None:
    merged = adapter(tmp_path)
    checkpoint = open_trajectory(upload(tmp_path / "run"), base=upload(tmp_path / "base")).checkpoints[-1]
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        torch.testing.assert_close(load_checkpoint(checkpoint)(ids).logits, merged(ids).logits)


def test_an_adapter_on_its_base(tmp_path: Path) -> None:
    merged = adapter(tmp_path)
    checkpoint = open_trajectory(tmp_path / "run", base=tmp_path / "base").checkpoints[-1]
    ids = torch.arange(12)[None]
    with torch.no_grad():
        found = load_checkpoint(checkpoint)(ids).logits
        torch.testing.assert_close(found, merged(ids).logits, rtol=1e-5, atol=1e-5)
    assert load_checkpoint(checkpoint, dtype="bfloat16").dtype == torch.bfloat16


def test_an_adapter_alone_asks_for_its_base(tmp_path: Path) -> None:
    adapter(tmp_path)
    with pytest.raises(InputError, match="say with --base"):
        load_checkpoint(open_trajectory(tmp_path / "run").checkpoints[-1])


def test_a_configuration_of_another_model_is_named(tmp_path: Path) -> None:
    adapter(tmp_path)
    checkpoint = open_trajectory(tmp_path / "run", base=tmp_path / "base").checkpoints[-1]
    qwen(num_hidden_layers=3).config.save_pretrained(tmp_path / "base")
    with pytest.raises(InputError, match=r"has no tensor 'model\.layers\.2\."):
        load_checkpoint(checkpoint)
    qwen(intermediate_size=32).config.save_pretrained(tmp_path / "base")
    with pytest.raises(InputError, match=r"has shape \[24, 16\] where the configuration .* asks for \[32, 16\]"):
        load_checkpoint(checkpoint)
