"""What prime-rl's trainer saves, by the functions of torch that it calls: it is not installed, and nothing of its own
runs. Its checkpoints (`checkpoints/step_N/trainer`) are torch.distributed.checkpoint's of `{"app": AppState}`; its
weights for the inference servers (`weights/step_N`) are bfloat16, with `STABLE` written last.
"""

import functools
from pathlib import Path

import tiny
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import truth
from cases import Case, main
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.checkpoint.stateful import Stateful
from torch.distributed.fsdp import fully_shard

RANK, ALPHA = 4, 16
TARGETS = ("q_proj", "v_proj", "down_proj")


class AppState(Stateful):
    def __init__(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        self.model, self.optimizer, self.step = model, optimizer, step

    def state_dict(self) -> dict:
        model, optimizers = get_state_dict(self.model, [self.optimizer])
        progress = {"step": self.step, "total_tokens": 1000 * self.step, "total_samples": 10 * self.step}
        return {"model": model, "optimizers": optimizers, "scheduler": {"last_epoch": self.step}, "progress": progress}

    def load_state_dict(self, state: dict) -> None:
        raise NotImplementedError


class MultiLoRALinear(torch.nn.Module):
    """The names and the arithmetic of prime-rl's layer, with one adapter: `base_layer`, `lora_A.0`, `lora_B.0`."""

    def __init__(self, base_layer: torch.nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        rows, columns = base_layer.weight.shape
        self.lora_A = torch.nn.ParameterList([torch.nn.Parameter(0.1 * torch.randn(RANK, columns))])
        self.lora_B = torch.nn.ParameterList([torch.nn.Parameter(0.01 * torch.randn(rows, RANK))])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x) + ALPHA / RANK * (x @ self.lora_A[0].T @ self.lora_B[0].T)


def write(
    out: Path, rank: int, ranks: int, *, lora: bool = False, checkpoints: bool = True, weights: bool = False
) -> None:
    model = tiny.qwen2()
    if rank == 0:
        truth.record_base(out, model)
    if lora:
        adapt(model)
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-3)
    for step in (10, 20, 30, 40):
        tiny.train(model, optimizer, step, rank)
        whole = truth.gathered(model.state_dict())
        if rank == 0:
            record(out, step, whole, lora)
        if checkpoints:
            folder = out / "run" / "checkpoints" / f"step_{step}" / "trainer"
            dcp.save({"app": AppState(model, optimizer, step)}, checkpoint_id=folder)
            (folder / "dataloader").mkdir(exist_ok=True)
            torch.save({"step": step}, folder / "dataloader" / f"rank_{rank}.pt")
        if weights and rank == 0:
            folder = out / "run" / "weights" / f"step_{step}"
            rounded = {name: value.bfloat16() for name, value in whole.items()}
            model.save_pretrained(folder, state_dict=rounded)
            if step < 40:  # the last is still being written
                (folder / "STABLE").touch()
        dist.barrier()


def adapt(model: torch.nn.Module) -> None:
    model.requires_grad_(False)
    torch.manual_seed(1)
    for layer in model.model.layers:
        for parent in (layer.self_attn, layer.mlp):
            for name in TARGETS:
                if hasattr(parent, name):
                    setattr(parent, name, MultiLoRALinear(getattr(parent, name)))


def record(out: Path, step: int, whole: dict[str, torch.Tensor], lora: bool) -> None:
    if not lora:
        truth.record(out, step, whole)
        truth.record(out, step, {name: value.bfloat16() for name, value in whole.items()}, "rounded_truth")
        return
    adapted = tiny.with_adapter(tiny.qwen2(), target_modules=list(TARGETS))
    adapted.peft_config["default"].save_pretrained(out / "adapter")
    named = {f"base_model.model.{name}": value for name, value in whole.items()}
    for letter in "AB":
        named = {name.replace(f"lora_{letter}.0", f"lora_{letter}.default.weight"): v for name, v in named.items()}
    truth.record_adapter(out, step, adapted, named)


if __name__ == "__main__":
    main(
        {
            "checkpoints": Case(2, write),
            "checkpoints_and_weights": Case(2, functools.partial(write, weights=True)),
            "weights": Case(2, functools.partial(write, checkpoints=False, weights=True)),
            "lora": Case(2, functools.partial(write, lora=True)),
        }
    )
