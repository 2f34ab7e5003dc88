"""Launched on two processes by test_deepspeed: a few steps under ZeRO, saved by DeepSpeed, and the masters gathered.

zero_script.py FOLDER STAGE
"""

import sys
from pathlib import Path

import deepspeed
import torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from safetensors.torch import save_file


class Small(torch.nn.Module):
    """Odd sizes, so that parts are padded; a buffer; a frozen weight; one weight in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(7, 5), torch.nn.Linear(5, 7, bias=False)
        self.again = torch.nn.Linear(7, 5, bias=False)
        self.again.weight = self.first.weight
        self.fixed = torch.nn.Linear(7, 7, bias=False).requires_grad_(False)
        self.register_buffer("shift", torch.arange(7.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shifted = x + self.get_buffer("shift").to(x.dtype)
        return self.again(self.second(self.first(self.fixed(shifted)))).square().mean()


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, stage = Path(sys.argv[1]), int(sys.argv[2])
    deepspeed.init_distributed("gloo")
    torch.manual_seed(0)
    settings = {
        "train_micro_batch_size_per_gpu": 2,
        "bf16": {"enabled": True},
        "zero_optimization": {"stage": stage},
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-2, "torch_adam": True}},
    }
    with deepspeed.zero.Init(enabled=stage == 3, config_dict_or_path=settings):
        model = Small()
    engine, *_ = deepspeed.initialize(
        model=model, model_parameters=[p for p in model.parameters() if p.requires_grad], config=settings
    )
    for step in range(3):
        engine.backward(engine(torch.full((2, 7), float(step), dtype=torch.bfloat16)))
        engine.step()
    engine.save_checkpoint(str(folder), tag="global_step3")
    torch.distributed.barrier()
    if torch.distributed.get_rank() == 0:
        whole = get_fp32_state_dict_from_zero_checkpoint(str(folder), tag="global_step3")
        save_file({name: value.clone().contiguous() for name, value in whole.items()}, folder / "whole.safetensors")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
