"""SkyRL's FSDPStrategy on two gloo ranks: `save_checkpoint` in `ckpts/global_step_N/policy`, `save_hf_model` in `exports/`.

Stubs: flash_attn; torch.cuda.synchronize does nothing; before Python 3.12, which SkyRL asks for, `typing.TypedDict` is that of
typing_extensions.
"""

import functools
import typing
from pathlib import Path
from types import SimpleNamespace

import tiny
import torch
import torch.distributed as dist
import transformers  # noqa: F401 before the stubs, which it would take for the real ones
import truth
import typing_extensions
from cases import Case, main
from stubs import stub

typing.TypedDict = typing_extensions.TypedDict
stub("flash_attn", "flash_attn.bert_padding", "flash_attn.utils", "flash_attn.utils.distributed")
torch.cuda.synchronize = lambda *arguments, **options: None

from skyrl.backends.skyrl_train.distributed.fsdp_strategy import FSDPStrategy
from torch.distributed.fsdp import fully_shard


def write(out: Path, rank: int, ranks: int, *, tie: bool = False, lora: bool = False, export: bool = False) -> None:
    model = tiny.qwen2(tie=tie)
    if rank == 0:
        truth.record_base(out, model)
    adapted = tiny.with_adapter(tiny.qwen2(tie=tie)) if lora else None
    if lora:
        model = tiny.with_adapter(model)
    for layer in (model.base_model.model if lora else model).model.layers:
        fully_shard(layer)
    fully_shard(model)
    optimizer = torch.optim.AdamW([weights for weights in model.parameters() if weights.requires_grad], lr=1e-3)
    strategy = FSDPStrategy(
        fsdp_config=SimpleNamespace(cpu_offload=False, fsdp_size=-1),
        model_config=SimpleNamespace(lora=SimpleNamespace(rank=4 if lora else 0)),
    )
    strategy.world_size = ranks
    for step in (10, 20, 30, 40):
        tiny.train(model, optimizer, step, rank)
        whole = truth.gathered(model.state_dict())
        folder = out / "run" / f"global_step_{step}"
        strategy.save_checkpoint(model, str(folder / "policy"), rank, optimizer=optimizer)
        if export:
            strategy.save_hf_model(model, str(out / "exports" / f"global_step_{step}" / "policy"))
        if rank == 0:
            if adapted is not None:
                truth.record_adapter(out, step, adapted, whole)
            else:
                truth.record(out, step, whole)
            (folder / "trainer_state.pt").touch()
            (out / "run" / "latest_ckpt_global_step.txt").write_text(str(step))
        dist.barrier()


if __name__ == "__main__":
    main(
        {
            "whole": Case(2, functools.partial(write, export=True)),
            "tied": Case(2, functools.partial(write, tie=True)),
            "lora": Case(2, functools.partial(write, lora=True)),
        }
    )
