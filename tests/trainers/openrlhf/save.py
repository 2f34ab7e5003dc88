"""OpenRLHF's DeepspeedStrategy on two gloo ranks: `prepare`, real steps under ZeRO, `save_ckpt` and `save_model`.

Stubs: flash_attn; torch.cuda.synchronize does nothing; AdamW is torch's (DeepSpeed's own is compiled for a GPU); sizes of
buffers that the strategy sets for large models are left at DeepSpeed's; the tokenizer writes an empty configuration.
"""

import functools
import os
from pathlib import Path
from types import SimpleNamespace

os.environ["DS_ACCELERATOR"] = "cpu"

import tiny
import torch
import torch.distributed as dist
import transformers  # noqa: F401 before the stubs, which it would take for the real ones
import truth
from cases import Case, main
from stubs import stub

stub("flash_attn", "flash_attn.bert_padding", "flash_attn.utils", "flash_attn.utils.distributed")
torch.cuda.synchronize = lambda *arguments, **options: None

import deepspeed
from openrlhf.models.actor import Actor
from openrlhf.utils.deepspeed import deepspeed as strategies

STEPS = (10, 20, 30, 40)
FOR_LARGE_MODELS = (
    "reduce_bucket_size",
    "sub_group_size",
    "stage3_max_live_parameters",
    "stage3_max_reuse_distance",
    "stage3_param_persistence_threshold",
    "stage3_prefetch_bucket_size",
)
_initialize = deepspeed.initialize


class Tokenizer:
    def save_pretrained(self, folder: str) -> None:
        Path(folder, "tokenizer_config.json").write_text("{}")


def initialize(*, config: dict, **others: object) -> tuple:
    if config.get("optimizer", {}).get("type") == "AdamW":
        config["optimizer"]["params"]["torch_adam"] = True
    zero = config["zero_optimization"]
    kept = {key: value for key, value in zero.items() if key not in FOR_LARGE_MODELS and value != "auto"}
    return _initialize(config={**config, "zero_optimization": kept}, **others)


strategies.deepspeed.initialize = initialize


def write(
    out: Path,
    rank: int,
    ranks: int,
    *,
    stage: int,
    tie: bool = False,
    lora: bool = False,
    within: str = "_actor",
    states: bool = True,
    models: bool = True,
    keep: int = 10,
    best: int | None = None,
) -> None:
    """`states`: DeepSpeed's, in the folder `within`; `models`: those for transformers, beside it (`--ckpt.save_hf`)."""
    if rank == 0:
        base = tiny.qwen2(tie=tie).bfloat16()
        truth.record_base(out, base)
        truth.record(out, 0, truth.gathered(base.state_dict()), "rounded_truth")
    dist.barrier()
    torch.manual_seed(3)
    strategy = strategies.DeepspeedStrategy(
        seed=1, zero_stage=stage, micro_train_batch_size=2, train_batch_size=2 * ranks, args=settings(stage)
    )
    strategy.world_size, strategy.ring_attn_rank = ranks, 0
    actor = Actor(
        str(out / "base"),
        attn_implementation="eager",
        param_dtype="bf16",
        lora_rank=4 if lora else 0,
        lora_alpha=16,
        target_modules="all-linear",
        ds_config=None,
    )
    for name, weights in actor.model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(weights, std=0.01)
    adapted = tiny.with_adapter(tiny.qwen2(tie=tie)) if lora else None
    adam = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.01}
    schedule = {"lr_scheduler": "constant", "lr_warmup_ratio": 0.0, "max_norm": 0.0, "scheduler_steps": 100}
    actor, optimizer, scheduler = strategy.prepare((actor, {"optim": "adam", "adam": adam, **schedule}))
    for step in STEPS:
        for repeat in range(2):
            loss = actor.model(**tiny.batch(step + repeat, rank)).loss
            strategy.backward(loss, actor, optimizer)
            strategy.optimizer_step(optimizer, actor, scheduler)
        whole = masters(actor.model, stage)
        if rank == 0:
            record(out, step, adapted, whole)
        tags = [f"global_step{step}", *([f"best_global_step{step}"] if step == best else [])]
        for tag in tags:  # as the trainers' save_checkpoint
            folder = out / "run" / within
            if states:
                strategy.save_ckpt(
                    actor.model, str(folder), tag, keep, float("inf"), metric_value=step / 100, metric_key="acc"
                )
            if models:
                strategy.save_model(actor, Tokenizer(), str(out / "run" / f"{tag}_hf"))


def settings(stage: int) -> SimpleNamespace:
    ds = {"param_dtype": "bf16", "zero_stage": stage, "tensor_parallel_size": 1, "adam_offload": False, "zpg": 1}
    train = SimpleNamespace(dynamic_batch_enable=False)
    return SimpleNamespace(ds=SimpleNamespace(**ds, overlap_comm=False), train=train, local_rank=-1, optim="adam")


def masters(engine: torch.nn.Module, stage: int) -> dict[str, torch.Tensor]:
    """The fp32 masters of what trains, by DeepSpeed's own function, and the frozen weights."""
    found = {}
    for name, weights in engine.module.named_parameters():
        if weights.requires_grad:
            found[name] = deepspeed.utils.safe_get_full_fp32_param(weights).detach().clone()
        elif stage == 3:
            with deepspeed.zero.GatheredParameters([weights]):
                found[name] = weights.detach().float().clone()
        else:
            found[name] = weights.detach().float().clone()
    return found


def record(out: Path, step: int, adapted: torch.nn.Module | None, whole: dict[str, torch.Tensor]) -> None:
    rounded = {name: value.bfloat16() for name, value in whole.items()}
    if adapted is not None:
        missing = adapted.state_dict().keys() - whole.keys()  # a head tied to the embeddings, and buffers
        assert all("lm_head" in name for name in missing), missing
        truth.record_adapter(out, step, adapted, whole)
        truth.record_adapter(out, step, adapted, rounded, "rounded_")
    else:
        truth.record(out, step, whole)
        truth.record(out, step, rounded, "rounded_truth")


def case(**options: object) -> Case:
    return Case(2, functools.partial(write, **options))


if __name__ == "__main__":
    main(
        {
            "stage_1": case(stage=1, models=False),
            "stage_2": case(stage=2),
            "stage_3": case(stage=3, tie=True),
            "rotated": case(stage=2, keep=3, models=False),
            "best": case(stage=2, best=30),
            "sft": case(stage=2, within=""),
            "sft_stage_3": case(stage=3, within=""),
            "sft_states_alone": case(stage=2, within="", models=False),
            "models_alone": case(stage=2, states=False),
            "lora": case(stage=2, lora=True),
            "lora_stage_3": case(stage=3, lora=True),
            "lora_sft": case(stage=2, lora=True, within=""),
            "lora_states_alone": case(stage=2, lora=True, models=False),
            "adapters_alone": case(stage=2, lora=True, states=False),
            "adapters_alone_stage_3": case(stage=3, lora=True, states=False),
        }
    )
