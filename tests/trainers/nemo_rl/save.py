"""NeMo-RL's folders: by NeMo-Automodel's Checkpointer, which its second DTensor worker calls, or by what its first calls
of torch. NeMo-RL itself is not installed. Nothing is stubbed; the optimizer is saved by neither.
"""

import functools
import json
from pathlib import Path

import tiny
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import truth
from cases import Case, main
from nemo_automodel.components._peft.lora import PeftConfig, apply_lora_to_linear_modules
from nemo_automodel.components.checkpoint.checkpointing import Checkpointer, CheckpointingConfig
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard

STEPS = (10, 20, 30, 40)


def write(
    out: Path,
    rank: int,
    ranks: int,
    *,
    tie: bool = False,
    kind: str = "safetensors",
    consolidated: bool | str = False,
    lora: bool = False,
    place: str = "step_{}/policy/weights",
) -> None:
    """`kind`: `plain` is the first worker's; `safetensors` and `torch_save` are formats of the Checkpointer."""
    model = tiny.qwen2(tie=tie)
    if rank == 0:
        truth.record_base(out, model)
    adapters = PeftConfig(target_modules=["*_proj"], dim=4, alpha=16) if lora else None
    if adapters is not None:
        adapt(model, adapters)
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    settings = CheckpointingConfig(
        checkpoint_dir=str(out / "run"),
        model_save_format="safetensors" if kind == "plain" else kind,
        model_repo_id=str(out / "base"),
        save_consolidated=consolidated,
        is_peft=lora,
    )
    checkpointer = Checkpointer(settings, dp_rank=rank, tp_rank=0, pp_rank=0)
    optimizer = torch.optim.AdamW([weights for weights in model.parameters() if weights.requires_grad], lr=1e-3)
    for step in STEPS:
        tiny.train(model, optimizer, step, rank)
        whole = truth.gathered(model.state_dict())
        weights = out / "run" / place.format(step)
        if kind == "plain":
            weights.mkdir(parents=True, exist_ok=True)
            state = get_model_state_dict(model, options=StateDictOptions(cpu_offload=True))
            dcp.save({"model": state}, checkpoint_id=weights)
        else:
            checkpointer.save_model(model, str(weights), peft_config=adapters)
        if rank == 0:
            record(out, step, whole, lora)
            if "policy" in place:
                (weights.parents[1] / "training_info.json").write_text(json.dumps({"step": step}))
                (weights.parent / "tokenizer").mkdir(exist_ok=True)
                (weights.parent / "tokenizer" / "tokenizer_config.json").write_text("{}")
        dist.barrier()
    checkpointer.close()


def adapt(model: torch.nn.Module, adapters: PeftConfig) -> None:
    torch.manual_seed(1)
    apply_lora_to_linear_modules(model, adapters)
    for name, weights in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(weights, std=0.01)


def record(out: Path, step: int, whole: dict[str, torch.Tensor], lora: bool) -> None:
    """Automodel's adapted layers by the names that peft gives them."""
    if not lora:
        truth.record(out, step, whole)
        return
    adapted = tiny.with_adapter(tiny.qwen2())
    by_peft = set(adapted.state_dict())
    named = {}
    for name, value in whole.items():
        plain = f"base_model.model.{name}".replace(".lora_A.weight", ".lora_A.default.weight")
        plain = plain.replace(".lora_B.weight", ".lora_B.default.weight")
        module, _, kind = plain.rpartition(".")
        frozen = f"{module}.base_layer.{kind}"
        named[frozen if frozen in by_peft else plain] = value
    truth.record_adapter(out, step, adapted, named)


def case(**settings: object) -> Case:
    return Case(2, functools.partial(write, **settings))


if __name__ == "__main__":
    main(
        {
            "distributed": case(kind="plain"),
            "distributed_tied": case(kind="plain", tie=True),
            "distributed_by_automodel": case(kind="torch_save"),
            "slices": case(),
            "slices_tied": case(tie=True),
            "consolidated": case(consolidated="every"),
            "lora": case(lora=True),
            "automodel_under_verl": case(consolidated="every", place="global_step_{}/actor"),
        }
    )
