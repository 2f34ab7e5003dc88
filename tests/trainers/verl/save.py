"""verl's FSDPCheckpointManager, on models that are wrapped as its FSDP engine wraps them; and its merger of what it saved.

Stubs: the device id, asked of CUDA, is the CPU. FSDP1 is given `sync_module_states=False` (on a CPU torch refuses True; all
ranks begin with the same weights), and its shards are moved in place instead of trained.
"""

import functools
from pathlib import Path

import tiny
import torch
import torch.distributed as dist
import truth
import verl.model_merger.base_model_merger as merging
from cases import Case, main
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision
from torch.distributed.fsdp.api import FullStateDictConfig, ShardedStateDictConfig, StateDictType
from transformers import get_constant_schedule_with_warmup
from verl.model_merger.base_model_merger import ModelMergerConfig
from verl.model_merger.fsdp_model_merger import FSDPModelMerger
from verl.utils import fsdp_utils
from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager
from verl.workers.engine.fsdp.utils import get_sharding_strategy

fsdp_utils.get_device_id = lambda: torch.device("cpu")
STEPS = (10, 20, 30, 40)
ALL = ("model", "optimizer", "extra")


def write(
    out: Path,
    rank: int,
    ranks: int,
    *,
    fsdp: int = 2,
    model: str = "qwen2",
    tie: bool = False,
    dtype: torch.dtype = torch.float32,
    contents: tuple[str, ...] = ALL,
    lora: bool = False,
    lora_only: bool = False,
    shards: int | None = None,
    along_any_axis: bool = False,
    actor: str = "actor",
    keep: int | None = None,
    merge: bool = False,
) -> None:
    """`shards`: verl's fsdp_size, over which weights are sharded; the rest of the ranks holds replicas."""
    settings = {} if model == "deepseek" else {"tie": tie}
    built = getattr(tiny, model)(**settings).to(dtype)
    if rank == 0:
        truth.record_base(out, built)
    adapted = tiny.with_adapter(getattr(tiny, model)(**settings)) if lora else None
    if lora:
        built = tiny.with_adapter(built).to(dtype)
    names, sizes = (("fsdp",), (ranks,)) if shards is None else (("ddp", "fsdp"), (ranks // shards, shards))
    mesh = init_device_mesh("cpu", sizes, mesh_dim_names=names)
    wrapped = fsdp1(built, mesh, lora) if fsdp == 1 else fsdp2(built, mesh, along_any_axis)
    optimizer = torch.optim.AdamW([weights for weights in wrapped.parameters() if weights.requires_grad], lr=1e-3)
    manager = FSDPCheckpointManager(
        model=wrapped,
        optimizer=optimizer,
        lr_scheduler=get_constant_schedule_with_warmup(optimizer, 0),
        processing_class=None,
        checkpoint_config={"save_contents": list(contents), "load_contents": ["model"], "save_lora_only": lora_only},
    )
    for step in STEPS:
        if fsdp == 1:
            move(wrapped, step, mesh.get_local_rank("fsdp"))
        else:
            tiny.train(wrapped, optimizer, step, rank)
        move_buffers(wrapped)
        on_all = {"offload_to_cpu": False, "rank0_only": False} if fsdp == 1 else {}
        whole = truth.gathered(fsdp_utils.get_fsdp_full_state_dict(wrapped, **on_all))
        folder = out / "run" / f"global_step_{step}"
        manager.save_checkpoint(str(folder / actor), global_step=step, max_ckpt_to_keep=keep)
        if rank == 0:
            if adapted is not None:
                truth.record_adapter(out, step, adapted, whole)
                truth.record_adapter(out, step, adapted, rounded(whole), "rounded_")
            else:
                truth.record(out, step, whole)
                truth.record(out, step, rounded(whole), "rounded_truth")
            torch.save({"_num_yielded": step}, folder / "data.pt")  # RayPPOTrainer._save_checkpoint
            (out / "run" / "latest_checkpointed_iteration.txt").write_text(str(step))
        dist.barrier()
    if merge and rank == 0:
        merged(out, actor)


def fsdp1(model: torch.nn.Module, mesh, lora: bool) -> torch.nn.Module:
    wrapped = FullyShardedDataParallel(
        model,
        param_init_fn=fsdp_utils.init_fn,
        auto_wrap_policy=fsdp_utils.get_fsdp_wrap_policy(module=model, config=None, is_lora=lora),
        device_id=torch.device("cpu"),
        sharding_strategy=get_sharding_strategy(mesh),
        mixed_precision=MixedPrecision(
            param_dtype=torch.float32, reduce_dtype=torch.float32, buffer_dtype=torch.float32
        ),
        sync_module_states=False,
        device_mesh=mesh,
        use_orig_params=lora,
    )
    if dist.get_world_size() == 1:
        kind, settings = StateDictType.FULL_STATE_DICT, FullStateDictConfig()
    else:
        kind, settings = StateDictType.SHARDED_STATE_DICT, ShardedStateDictConfig()
    FullyShardedDataParallel.set_state_dict_type(wrapped, state_dict_type=kind, state_dict_config=settings)
    return wrapped


def fsdp2(model: torch.nn.Module, mesh, along_any_axis: bool) -> torch.nn.Module:
    whole = model.state_dict()
    precision = fsdp_utils.MixedPrecisionPolicy(
        param_dtype=torch.float32, reduce_dtype=torch.float32, cast_forward_inputs=True
    )
    settings = {"mesh": mesh, "mp_policy": precision, "offload_policy": None, "reshard_after_forward": True}
    if along_any_axis:
        settings["shard_placement_fn"] = fsdp_utils.get_shard_placement_fn(fsdp_size=mesh.shape[-1])
    fsdp_utils.apply_fsdp2(model, settings, {})
    fsdp_utils.fsdp2_load_full_state_dict(model, whole, mesh, None)
    if mesh.shape[-1] > 1:
        assert all(part.to_local().numel() < part.numel() for part in model.parameters()), "not sharded"
    return model


@torch.no_grad()
def move(model: torch.nn.Module, step: int, shard: int) -> None:
    generator = torch.Generator().manual_seed(1000 * step + shard)
    for weights in model.parameters():
        if weights.requires_grad and weights.numel():
            weights += (torch.randn(weights.shape, generator=generator) * 1e-3 + 1e-3).to(weights.dtype)


@torch.no_grad()
def move_buffers(model: torch.nn.Module) -> None:
    """As the routers' balance does in training."""
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer += 0.01 * torch.arange(1, 1 + buffer.numel())


def merged(out: Path, actor: str) -> None:
    """`python -m verl.model_merger merge --backend fsdp` of every step, which rounds to bfloat16."""
    merging.hf_processor = merging.hf_tokenizer = lambda *arguments, **options: None  # there is no tokenizer here
    for step in STEPS:
        folder = out / "run" / f"global_step_{step}" / actor
        target = out / "merged" / f"global_step_{step}"
        settings = {"operation": "merge", "backend": "fsdp", "local_dir": str(folder), "target_dir": str(target)}
        FSDPModelMerger(
            ModelMergerConfig(**settings, hf_model_config_path=str(folder / "huggingface"))
        ).merge_and_save()


def rounded(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.bfloat16() for name, value in state.items()}


def case(ranks: int, **settings: object) -> Case:
    return Case(ranks, functools.partial(write, **settings))


WITH_MODEL = (*ALL, "hf_model")
if __name__ == "__main__":
    main(
        {
            "one_rank": case(1, contents=WITH_MODEL),
            "two_ranks": case(2),
            "tied": case(2, model="llama", tie=True),
            "along_any_axis": case(2, along_any_axis=True),
            "bfloat16": case(2, dtype=torch.bfloat16),
            "experts": case(2, model="deepseek"),
            "replicas": case(2, shards=1),
            "hybrid": case(4, shards=2),
            "with_hf_model": case(2, contents=WITH_MODEL),
            "hf_model_alone": case(2, contents=("hf_model",)),
            "sft": case(2, actor=""),
            "sft_hf_model_alone": case(2, actor="", contents=("hf_model",)),
            "rotated": case(2, keep=2),
            "fsdp1_one_rank": case(1, fsdp=1),
            "fsdp1": case(2, fsdp=1),
            "fsdp1_tied": case(2, fsdp=1, tie=True),
            "fsdp1_experts": case(2, fsdp=1, model="deepseek"),
            "fsdp1_replicas": case(2, fsdp=1, shards=1),
            "fsdp1_hybrid": case(4, fsdp=1, shards=2),
            "lora": case(2, lora=True, merge=True),
            "lora_one_rank": case(1, lora=True, fsdp=1),
            "lora_with_hf_model": case(2, lora=True, contents=WITH_MODEL),
            "lora_sft": case(2, lora=True, actor=""),
            "lora_fsdp1": case(2, lora=True, fsdp=1),
            "lora_only": case(2, lora=True, lora_only=True),
            "lora_only_sft": case(2, lora=True, lora_only=True, actor=""),
            "lora_only_fsdp1": case(2, lora=True, lora_only=True, fsdp=1),
            "merged": case(2, merge=True),
        }
    )
