"""A tiny language model and trainers around it, small enough for a hundred steps in seconds."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

logging.getLogger("transformers").setLevel(logging.ERROR)


def tiny_model(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    return LlamaForCausalLM(config)


class Tokens(torch.utils.data.Dataset):
    """Seeded sequences that count upwards: something to learn."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = (torch.arange(8) + index) % 14 + 2
        return {"input_ids": row, "labels": row}


def trainer(out: Path, callbacks: list[Any], *, steps: int = 12, model: Any = None, **settings: Any) -> Trainer:
    """A transformers Trainer on the CPU that logs every step and saves its last."""
    arguments: dict[str, Any] = {
        "output_dir": str(out),
        "max_steps": steps,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "linear",
        "per_device_train_batch_size": 8,
        "logging_steps": 1,
        "save_steps": 1000,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 0,
        "dataloader_pin_memory": False,
    } | settings
    made = Trainer(
        model=model or tiny_model(), args=TrainingArguments(**arguments), train_dataset=Tokens(), callbacks=callbacks
    )
    made.remove_callback(_printer())
    return made


def rewarded(made: Trainer, reward: Callable[[int], float]) -> Trainer:
    """The trainer, logging `reward(step)`."""
    log = made.log
    made.log = lambda logs, *rest: log(
        logs | ({"reward": reward(made.state.global_step)} if "loss" in logs else {}), *rest
    )
    return made


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def _printer() -> type:
    from transformers import PrinterCallback

    return PrinterCallback


def falling(step: int) -> float:
    """A reward that falls for good at the jump of step 6."""
    return 1.0 + 0.01 * (step % 2) - (step > 6)
