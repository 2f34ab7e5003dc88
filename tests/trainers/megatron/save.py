"""megatron-core's dist_checkpointing (`torch_dist`) of its GPTModel, on one gloo rank and in two tensor-parallel parts.

Stubs: triton, which kernels are written in that nothing here calls; torch.cuda.synchronize does nothing, and the current
device is the CPU. There is no Transformer Engine: layers are the local ones. Weights are moved in place, not trained.
"""

import functools
from argparse import Namespace
from pathlib import Path

import torch
import torch._inductor.compile_fx  # before the stub, which it would take for the real one
import torch.distributed as dist
import transformers  # noqa: F401 likewise
import truth
from cases import Case, main
from stubs import stub


def decorator(function=None, **options):
    return (lambda decorated: decorated) if function is None else function


stub("triton", "triton.language", jit=decorator, constexpr=int, __version__="3.4.0")
torch.cuda.synchronize = lambda *arguments, **options: None
torch.cuda.current_device = lambda: torch.device("cpu")

from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.transformer import TransformerConfig


def write(out: Path, rank: int, ranks: int, *, place: str = "iter_{:07d}") -> None:
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=ranks)
    torch.manual_seed(0)
    config = TransformerConfig(
        num_layers=2,
        hidden_size=32,
        ffn_hidden_size=52,
        num_attention_heads=4,
        num_query_groups=2,
        tensor_model_parallel_size=ranks,
        use_cpu_initialization=True,
        normalization="RMSNorm",
        add_bias_linear=False,
        gated_linear_unit=True,
        pipeline_dtype=torch.float32,
    )
    model = GPTModel(
        config,
        get_gpt_layer_local_spec(normalization="RMSNorm"),
        vocab_size=204,
        max_sequence_length=128,
        position_embedding_type="rope",
        share_embeddings_and_output_weights=False,
    )
    for step in (10, 20, 30, 40):
        move(model, step, rank)
        state = model.sharded_state_dict()
        stored = whole(state)
        if rank == 0:
            truth.record(out, step, stored, "stored")
            truth.record(out, step, by_layer(stored))
        folder = out / "run" / place.format(step)
        folder.mkdir(parents=True, exist_ok=True)
        others = {"checkpoint_version": 3.0, "iteration": step, "args": Namespace(num_layers=2)}
        dist_checkpointing.save({"model": state, **others}, str(folder))
        if rank == 0:
            (out / "run" / "latest_checkpointed_iteration.txt").write_text(str(step))
        dist.barrier()


@torch.no_grad()
def move(model: torch.nn.Module, step: int, rank: int) -> None:
    for number, weights in enumerate(model.parameters()):
        parts = rank if getattr(weights, "tensor_model_parallel", False) else 0  # replicas move alike
        generator = torch.Generator().manual_seed(1000 * step + 10 * number + parts)
        weights += torch.randn(weights.shape, generator=generator) * 1e-3 + 1e-3


def whole(state: dict) -> dict[str, torch.Tensor]:
    """The tensors as they are stored, put together from all ranks' parts: layers are stacked."""
    parts = []
    for value in flat(state):
        data = value.data.detach().reshape(value.local_shape)
        parts.append((value.key, value.global_shape, value.global_slice(), data))
    everyone: list = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, parts)
    found: dict[str, torch.Tensor] = {}
    for key, shape, where, data in (part for parts in everyone for part in parts):
        tensor = found.setdefault(key, torch.full(shape, float("nan")))
        tensor[where] = data.reshape(tensor[where].shape)
    assert not any(value.isnan().any() for value in found.values())
    return found


def flat(state: dict) -> list[ShardedTensor]:
    """Of gated layers too, which are stored as their two halves."""
    found = []
    for value in state.values():
        if isinstance(value, ShardedTensorFactory):
            made = value.build()
            found += (
                flat(made) if isinstance(made, dict) else [part for part in made if isinstance(part, ShardedTensor)]
            )
        elif isinstance(value, ShardedTensor):
            found.append(value)
    return found


def by_layer(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """By the names of the model's state dict."""
    found = {}
    for name, value in stored.items():
        if name.startswith("decoder.layers."):
            rest = name.removeprefix("decoder.layers.")
            found |= {f"decoder.layers.{layer}.{rest}": value[layer] for layer in range(len(value))}
        else:
            found[name] = value
    return found


if __name__ == "__main__":
    main(
        {
            "one_rank": Case(1, write),
            "tensor_parallel": Case(2, write),
            "under_verl": Case(1, functools.partial(write, place="global_step_{}/actor/dist_ckpt")),
        }
    )
