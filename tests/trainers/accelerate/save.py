"""accelerate's FSDP2 on two gloo ranks, saved as transformers' Trainer has it do: `save_fsdp_model`, its weights sharded
(torch.distributed.checkpoint) or gathered (`pytorch_model_fsdp.bin`).

`Accelerator` takes a run on CPUs for DDP, so its own `fsdp2_prepare_model` is called, which shards, with an object that
has the attributes it asks for.
"""

import functools
import json
import os
from pathlib import Path
from types import SimpleNamespace

os.environ["ACCELERATE_USE_CPU"] = "true"

import tiny
import torch
import torch.distributed as dist
import truth
from accelerate import FullyShardedDataParallelPlugin, PartialState
from accelerate.utils import save_fsdp_model, save_fsdp_optimizer
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from cases import Case, main

ADAPTER = {"target_modules": ["q_proj", "v_proj", "down_proj"]}


def write(out: Path, rank: int, ranks: int, *, kind: str, lora: bool = False, frozen_too: bool = False) -> None:
    """`frozen_too`: the base's weights are saved beside the adapter's; Trainer leaves them out."""
    model = tiny.qwen2()
    if rank == 0:
        truth.record_base(out, model)
    adapted = tiny.with_adapter(tiny.qwen2(), **ADAPTER) if lora else None
    if lora:
        model = tiny.with_adapter(model, **ADAPTER)
        model.peft_config["default"].save_pretrained(out / "adapter")
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        state_dict_type=f"{kind.upper()}_STATE_DICT",
        cpu_ram_efficient_loading=False,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["Qwen2DecoderLayer"],
    )
    PartialState(cpu=True)
    accelerator = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin),
        num_processes=ranks,
        process_index=rank,
        is_main_process=rank == 0,
        mixed_precision="no",
        device=torch.device("cpu"),
    )
    model = fsdp2_prepare_model(accelerator, model)
    trained = [weights for weights in model.parameters() if weights.requires_grad]
    assert all(weights.to_local().numel() < weights.numel() for weights in trained), "not sharded"
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    for step in (10, 20, 30, 40):
        tiny.train(model, optimizer, step, rank)
        state = truth.gathered(model.state_dict())
        checkpoint = out / "run" / f"checkpoint-{step}"
        save_fsdp_model(plugin, accelerator, model, str(checkpoint), adapter_only=not frozen_too)
        save_fsdp_optimizer(plugin, accelerator, optimizer, model, str(checkpoint))
        if rank == 0:
            (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
            if adapted is not None:
                truth.record_adapter(out, step, adapted, state)
            else:
                truth.record(out, step, state)
            if kind == "full":  # Trainer._save
                model.save_pretrained(checkpoint, state_dict=state)
        dist.barrier()


if __name__ == "__main__":
    main(
        {
            "sharded": Case(2, functools.partial(write, kind="sharded")),
            "full": Case(2, functools.partial(write, kind="full")),
            "sharded_lora": Case(2, functools.partial(write, kind="sharded", lora=True)),
            "full_lora": Case(2, functools.partial(write, kind="full", lora=True)),
            "sharded_lora_frozen_too": Case(2, functools.partial(write, kind="sharded", lora=True, frozen_too=True)),
            "full_lora_frozen_too": Case(2, functools.partial(write, kind="full", lora=True, frozen_too=True)),
        }
    )
