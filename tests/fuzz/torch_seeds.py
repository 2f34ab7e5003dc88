"""Small checkpoints of the layouts that torch writes, for `readers.py`: `torch_seeds.py FOLDER`.

A process of its own, so that the memory of the one that reads does not count torch's.
"""

import json
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

W = {
    "model.up.weight": torch.arange(24.0).reshape(6, 4),
    "model.norm.weight": torch.ones(3),
    "scale": torch.tensor(2.0),
}


def save(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(value, path)


def main(folder: Path) -> None:
    for rank in range(2):
        part = {name: value.tensor_split(2)[rank].clone() if value.dim() else value for name, value in W.items()}
        part.pop("scale")
        lora = {"q.lora_A.default.weight": torch.ones(1, 4), "q.lora_B.default.weight": torch.ones(2, 2)}
        save(folder / "verl" / "actor" / f"model_world_size_2_rank_{rank}.pt", part | lora)
        places = {"model.up.weight": {"saved_offsets": [3 * rank, 0]}}
        (folder / "slices" / "policy" / "weights").mkdir(parents=True, exist_ok=True)
        save_file(
            {"model.up.weight": W["model.up.weight"][3 * rank : 3 * rank + 3].clone()},
            folder / "slices" / "policy" / "weights" / f"shard-{rank}.safetensors",
            metadata={"DCP_SHARDING_INFO": json.dumps(places)},
        )
    save(folder / "state" / "pytorch_model.bin", {**W, "step": 3})
    (folder / "verl" / "actor" / "lora_train_meta.json").write_text(json.dumps({"r": 2, "lora_alpha": 4}))
    dcp.save(
        {"app": {"model": W, "optimizer": {"x": torch.ones(2)}}}, checkpoint_id=folder / "dcp" / "trainer", no_dist=True
    )
    for stage in (2, 3):
        place = folder / f"zero{stage}"
        key = "fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"
        shapes = [{"model.up.weight": torch.Size([6, 4])}]
        model = {"module": {"b": torch.ones(2)}, "buffer_names": ["b"], "param_shapes": shapes, "shared_params": {}}
        for rank in range(2):
            flat = W["model.up.weight"].flatten()[12 * rank : 12 * rank + 12].clone()
            state = {"zero_stage": stage, "partition_count": 2, key: [flat]}
            save(place / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt", {"optimizer_state_dict": state})
            if stage == 3:
                save(place / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt", model)
        if stage == 2:
            save(place / "mp_rank_00_model_states.pt", model)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    mesh = init_device_mesh("cpu", (1, 1))
    parts: dict[str, torch.Tensor] = {
        name: distribute_tensor(value, mesh, [Replicate(), Shard(0)]) for name, value in W.items() if value.dim()
    }
    save(folder / "fsdp2" / "actor" / "model_world_size_1_rank_0.pt", parts)
    dist.destroy_process_group()
    (folder / "adapter").mkdir()
    factors = {"q.lora_A.weight": torch.ones(2, 4), "q.lora_B.weight": torch.ones(3, 2), "head.weight": torch.ones(2)}
    save_file(
        {f"base_model.model.{k}": v for k, v in factors.items()}, folder / "adapter" / "adapter_model.safetensors"
    )
    config = {"peft_type": "LORA", "lora_alpha": 4, "r": 2, "alpha_pattern": {"k": 2}, "use_rslora": False}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]))
