"""Launched on two processes by test_regrounding_zero3: a tiny run under DeepSpeed ZeRO-3 that jumps.

zero3_script.py OUT ACCEPT
"""

import sys
from pathlib import Path
from typing import Any

import deepspeed
import torch
from safetensors.torch import save_file
from tiny_trainer import falling, rewarded, trainer

from driftline.training.regrounding import RegroundingCallback

ZERO3 = {
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 100},  # norms are kept whole
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "train_batch_size": "auto",
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    accept: Any = sys.argv[2]
    jumps = RegroundingCallback(6, 6, accept=accept, window=2)
    made = trainer(out, [jumps], steps=12, deepspeed=ZERO3, per_device_train_batch_size=4, optim="adamw_torch")
    rewarded(made, falling).train()
    parameters = dict(made.model.named_parameters())
    with deepspeed.zero.GatheredParameters(list(parameters.values())):
        if made.args.process_index == 0:
            save_file({name: value.detach().clone() for name, value in parameters.items()}, f"{out}/final.safetensors")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
