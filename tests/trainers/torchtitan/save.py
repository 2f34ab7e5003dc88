"""torchtitan's CheckpointManager on its own Llama3Model, sharded with FSDP2 on gloo ranks.

Stub: `torchtitan.distributed.minimal_async_ep.kernels` (Triton), which dense models do not call. Gradients are random numbers; the container's own AdamW makes steps of them.
"""

import functools
import json
from pathlib import Path

from stubs import stub

stub("torchtitan.distributed.minimal_async_ep.kernels")

import torch
import torch.distributed as dist
import truth
from cases import Case, main
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torchtitan.components.checkpointer.dcp import CheckpointManager
from torchtitan.components.lora import LoRAConverter
from torchtitan.components.optimizer import LRSchedulersContainer, OptimizersContainer
from torchtitan.components.optimizer.optimizer import ParamGroupConfig
from torchtitan.models import llama3
from torchtitan.models.common import ComplexRoPE, Embedding, Linear, RMSNorm
from torchtitan.models.llama3.state_dict_adapter import Llama3StateDictAdapter

WIDTH, HEADS, VOCABULARY = 32, 4, 203
RANK, ALPHA = 4, 16.0
STEPS = (1, 10, 20, 30, 40)


class TrainState:
    """What the trainer saves of itself."""

    step = 0

    def state_dict(self) -> dict:
        return {"step": torch.tensor(self.step), "ntokens_seen": torch.tensor(1000 * self.step)}

    def load_state_dict(self, state: dict) -> None:
        raise NotImplementedError


def write(
    out: Path,
    rank: int,
    ranks: int,
    *,
    tie: bool = False,
    lora: bool = False,
    mesh: tuple[int, ...] | None = None,
    index: bool = False,
    under_verl: bool = False,
    export_dtype: str = "float32",
    **settings: object,
) -> None:
    """`settings`: of the manager; `index`: the model's assets name the files of its weights for transformers, so the export writes these."""
    torch.manual_seed(0)
    config = model_config(tie)
    if lora:
        converter = LoRAConverter.Config(rank=RANK, alpha=ALPHA, target_modules=["wo", "w1"]).build()
        config = converter.convert(config)
    model = config.build()
    model.init_states()
    grid = init_device_mesh("cpu", mesh or (ranks,), mesh_dim_names=("replicated", "sharded") if mesh else ("sharded",))
    for layer in model.layers.values():
        fully_shard(layer, mesh=grid)
    fully_shard(model, mesh=grid)
    optimizers = OptimizersContainer.Config(
        param_groups=[ParamGroupConfig(pattern=r".*", optimizer_name="AdamW", optimizer_kwargs={"lr": 1e-3})],
        implementation="for-loop",
    ).build(model_parts=[model])
    schedulers = LRSchedulersContainer.Config(warmup_steps=1).build(optimizers=optimizers, training_steps=100)
    to_transformers = Llama3StateDictAdapter(config, str(assets(out, rank, config, model)) if index else None)
    state = TrainState()
    checkpoints = CheckpointManager.Config(
        enable=True,
        interval=10,
        enable_first_step_checkpoint=True,
        keep_latest_k=0,
        export_dtype=export_dtype,
        **settings,
    ).build(
        dataloader=None,
        model_parts=[model],
        optimizers=optimizers,
        lr_schedulers=schedulers,
        states={"train_state": state},
        sd_adapter=to_transformers,
        base_folder=str(out / "run"),
    )
    for step in STEPS:
        give_gradients(model, step * 10 + grid.get_local_rank("sharded"))
        optimizers.step()
        schedulers.step()
        state.step = step
        whole = truth.gathered(model.state_dict())
        if export_dtype == "bfloat16" and step == STEPS[-1]:
            whole = {name: value.bfloat16() for name, value in whole.items()}
        if rank == 0:
            truth.record(out, step, whole)
            if lora:
                truth.record(out, step, products(whole), "products")
            else:
                truth.record(out, step, to_transformers.to_hf(dict(whole)), "transformers")
        if under_verl:  # its torchtitan engine, given `global_step_N/actor`
            checkpoints.folder = str(out / "run" / f"global_step_{step}")
        checkpoints.save(step, last_step=step == STEPS[-1] and not under_verl)
        checkpoints.maybe_wait_for_staging()
        checkpoints.maybe_wait_for_saving()
        dist.barrier()
    checkpoints.close()


def products(whole: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The changes that torchtitan's LoRALinear adds: alpha/rank·B·A."""
    modules = [name.removesuffix(".lora_a.weight") for name in whole if name.endswith(".lora_a.weight")]
    factors = {module: (whole[f"{module}.lora_b.weight"], whole[f"{module}.lora_a.weight"]) for module in modules}
    return {f"{module}.weight": ALPHA / RANK * (b.double() @ a.double()) for module, (b, a) in factors.items()}


def model_config(tie: bool) -> llama3.Llama3Model.Config:
    """As the flavours of torchtitan/models/llama3 are made up."""
    embedding = llama3._EMBEDDING_SKIP_INIT if tie else llama3._EMBEDDING_INIT
    layers = llama3._build_llama3_layers(
        fuse_qkv=True,
        n_layers=2,
        dim=WIDTH,
        n_heads=HEADS,
        n_kv_heads=2,
        hidden_dim=52,
        rope=ComplexRoPE.Config(dim=WIDTH // HEADS, max_seq_len=128, theta=10000),
        attn_backend="flex",
    )
    return llama3.Llama3Model.Config(
        dim=WIDTH,
        vocab_size=VOCABULARY,
        enable_weight_tying=tie,
        tok_embeddings=Embedding.Config(num_embeddings=VOCABULARY, embedding_dim=WIDTH, param_init=embedding),
        norm=RMSNorm.Config(normalized_shape=WIDTH, param_init=llama3._NORM_INIT),
        lm_head=Linear.Config(in_features=WIDTH, out_features=VOCABULARY, param_init=llama3._output_linear_init(WIDTH)),
        layers=layers,
    )


def assets(out: Path, rank: int, config: object, model: torch.nn.Module) -> Path:
    folder = out / "assets"
    names = Llama3StateDictAdapter(config, None).to_hf(dict(model.state_dict()))
    if rank == 0:
        files = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(names)}
        folder.mkdir()
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    dist.barrier()
    return folder


def give_gradients(model: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weights in model.parameters():
        if weights.requires_grad:
            part = torch.randn(weights.to_local().shape, generator=generator) + 0.5
            layout = {"run_check": False, "shape": weights.shape, "stride": weights.stride()}
            weights.grad = DTensor.from_local(part, weights.device_mesh, weights.placements, **layout)


WEIGHTS_ONLY = {"last_save_model_only": True}
FOR_TRANSFORMERS = {"last_save_in_hf": True, "last_save_model_only": True}
if __name__ == "__main__":
    main(
        {
            "one_rank": Case(1, functools.partial(write, **WEIGHTS_ONLY)),
            "two_ranks": Case(2, functools.partial(write, **WEIGHTS_ONLY)),
            "tied": Case(2, functools.partial(write, tie=True, **WEIGHTS_ONLY)),
            "all_state_at_the_end": Case(2, functools.partial(write, last_save_model_only=False)),
            "asynchronous": Case(2, functools.partial(write, async_mode="async", **WEIGHTS_ONLY)),
            "rounded_at_the_end": Case(2, functools.partial(write, export_dtype="bfloat16", **WEIGHTS_ONLY)),
            "replicated": Case(4, functools.partial(write, mesh=(2, 2), **WEIGHTS_ONLY)),
            "lora": Case(2, functools.partial(write, lora=True, last_save_model_only=False)),
            "under_verl": Case(2, functools.partial(write, under_verl=True)),
            "for_transformers": Case(2, functools.partial(write, **FOR_TRANSFORMERS)),
            "for_transformers_sharded": Case(2, functools.partial(write, index=True, **FOR_TRANSFORMERS)),
        }
    )
