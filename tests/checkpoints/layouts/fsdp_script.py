"""Two ranks on gloo shard a model with FSDP2 and save it as trainers do: `fsdp_script.py FOLDER KIND`.

KIND is `verl` (each rank its state dict), `verl-lora`, `verl-2d` (replicated twice, sharded twice; four ranks), `dcp`
(torch.distributed.checkpoint, with optimizer), `slices` (its writer of safetensors), `accelerate` and
`accelerate-full` (its FSDP, sharded and gathered). `FOLDER/whole.safetensors` gets what a reader should find.
"""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import Qwen2Config, Qwen2ForCausalLM


def model() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=97,
            hidden_size=18,
            intermediate_size=25,
            num_hidden_layers=2,
            num_attention_heads=3,
            num_key_value_heads=1,
            tie_word_embeddings=True,
        )
    )


def with_adapter(plain):
    import peft

    adapted = peft.get_peft_model(plain, peft.LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "down_proj"]))
    with torch.no_grad():
        for weights in adapted.parameters():
            if weights.requires_grad:
                weights += 0.1 * torch.randn_like(weights)
    return adapted


def save_with_accelerate(built, folder: Path, state_dict_type: str) -> None:
    """`Accelerator` takes a run on CPUs for DDP, so what it calls to shard is called with what it asks of one."""
    from accelerate import FullyShardedDataParallelPlugin, PartialState
    from accelerate.utils import save_fsdp_model
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model

    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1",
        "LOCAL_RANK": os.environ["RANK"],
    }  # asked for, not used
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        state_dict_type=state_dict_type,
        cpu_ram_efficient_loading=False,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["Qwen2DecoderLayer"],
    )
    PartialState(cpu=True)
    accelerator = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin),
        num_processes=dist.get_world_size(),
        process_index=dist.get_rank(),
        is_main_process=dist.get_rank() == 0,
        mixed_precision="no",
        device=torch.device("cpu"),
    )
    sharded = fsdp2_prepare_model(accelerator, built)
    assert all(weights.to_local().numel() < weights.numel() for weights in sharded.parameters()), "not sharded"
    save_fsdp_model(plugin, accelerator, sharded, str(folder / "saved"))


def work(rank: int, world: int, folder: Path, kind: str) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    built = model()
    layers = built.model.layers
    if kind == "verl-lora":
        built = with_adapter(built)
    if rank == 0:
        merged = with_adapter(model()).merge_and_unload() if kind == "verl-lora" else built
        save_file({k: v.clone().contiguous() for k, v in merged.state_dict().items()}, folder / "whole.safetensors")
    if kind.startswith("accelerate"):
        save_with_accelerate(built, folder, "SHARDED_STATE_DICT" if kind == "accelerate" else "FULL_STATE_DICT")
        dist.barrier()
        dist.destroy_process_group()
        return
    mesh = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("ddp", "fsdp")) if kind == "verl-2d" else None
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(built, mesh=mesh)
    if kind == "dcp":
        import torch.distributed.checkpoint as dcp

        optimizer = torch.optim.AdamW(built.parameters(), lr=0.0)
        built(torch.arange(8)[None]).logits.sum().backward()
        optimizer.step()
        state = {"model": built.state_dict(), "optimizer": optimizer.state_dict()["state"], "step": torch.tensor(3)}
        dcp.save({"app": state}, checkpoint_id=folder / "dcp")
    elif kind == "slices":
        import torch.distributed.checkpoint as dcp

        weights = {name: value for name, value in built.state_dict().items() if name != "lm_head.weight"}  # tied
        writer = dcp.HuggingFaceStorageWriter(
            str(folder / "policy" / "weights"), fqn_to_index_mapping=dict.fromkeys(weights, 1), save_distributed=True
        )
        dcp.save(weights, storage_writer=writer)
    else:
        actor = folder / "actor"
        actor.mkdir(exist_ok=True)
        torch.save(built.state_dict(), actor / f"model_world_size_{world}_rank_{rank}.pt")
        if rank == 0:
            model().config.save_pretrained(actor / "huggingface")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    world = 4 if sys.argv[2] == "verl-2d" else 2
    mp.spawn(work, args=(world, Path(sys.argv[1]), sys.argv[2]), nprocs=world)
