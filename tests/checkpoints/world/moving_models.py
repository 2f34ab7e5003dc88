"""Tiny models of real libraries that move along a line with noise, and what must be true of a forecast of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

import driftline
from driftline.checkpoints.trajectory import Trajectory

STEPS = (10, 20, 30, 40)
IDS = torch.arange(4, 16)[None]


def qwen2(*, tied: bool = False, vocabulary: int = 64) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=64,
            tie_word_embeddings=tied,
        )
    )


def moving(parameters: Iterable[torch.Tensor], size: float = 1e-2) -> Iterator[int]:
    """The steps of a run; before each, the parameters move on along one direction, with noise."""
    there = [parameter for parameter in parameters if parameter.requires_grad]
    generator = torch.Generator().manual_seed(1)
    directions = [torch.randn(parameter.shape, generator=generator) for parameter in there]
    for step in STEPS:
        with torch.no_grad():
            for parameter, direction in zip(there, directions, strict=True):
                noise = torch.randn(parameter.shape, generator=generator)
                parameter += (size * (direction + 0.5 * noise)).to(parameter.dtype)
        yield step


def lora(model: Any, **settings: Any) -> Any:
    import peft

    given = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **settings}
    return peft.get_peft_model(model, peft.LoraConfig(**given))


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model.eval()(IDS).logits.float()


def forecast(run: Any, out: Path, **options: Any) -> Path:
    driftline.extrapolate(run, out, to=90, keep=("none",), **options)
    return out


def assert_holds(run: Any, out: Path, truth: torch.Tensor, *, extra: tuple[str, ...] = (), **options: Any) -> None:
    """`hold`, the last checkpoint written as a forecast, loads with all its weights and none else, and is that model."""
    model, info = AutoModelForCausalLM.from_pretrained(
        forecast(run, out, method="hold", **options), output_loading_info=True, dtype=torch.float32
    )
    assert not info["missing_keys"]
    assert sorted(info["unexpected_keys"]) == sorted(extra)
    assert not info["mismatched_keys"]
    assert (logits(model) - truth).abs().max() < 1e-5


def written(model: Path) -> dict[str, torch.Tensor]:
    return load_file(model / "model.safetensors")


def values(trajectory: Trajectory, name: str) -> torch.Tensor:
    """Of a tensor at the last checkpoint, in its shape."""
    tensor = trajectory[name]
    return torch.from_numpy(tensor.stored[-1].values(0, tensor.size)).reshape(tensor.shape)


def run_of(folder: Path, model: Any, save: Callable[[Path], None], parameters: Iterable[torch.Tensor] = ()) -> Path:
    """A run whose checkpoints `save` writes, as the model moves."""
    for step in moving(list(parameters) or list(model.parameters())):
        (folder / f"checkpoint-{step}").mkdir(parents=True)
        save(folder / f"checkpoint-{step}")
    return folder
