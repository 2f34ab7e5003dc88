"""What a checkpoint should be read as: whole tensors, gathered live from the model and not from what was saved."""

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from safetensors.torch import save_file


def gathered(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The whole tensors; of DTensors, every rank has to call this."""
    return {name: _whole(value).detach().cpu().clone() for name, value in state.items()}


def record(out: Path, step: int, state: Mapping[str, torch.Tensor], kind: str = "truth") -> None:
    """Write `out/KIND/step_STEP.safetensors`: the floating ones of whole tensors, in float32."""
    (out / kind).mkdir(parents=True, exist_ok=True)
    whole = {name: value.float().contiguous() for name, value in state.items() if value.is_floating_point()}
    save_file(whole, out / kind / f"step_{step}.safetensors")


def record_base(out: Path, model: torch.nn.Module) -> None:
    """The model that training starts from, as transformers saves it, and as step 0."""
    model.save_pretrained(out / "base")
    record(out, 0, gathered(model.state_dict()))


def record_adapter(
    out: Path, step: int, adapted: torch.nn.Module, state: Mapping[str, torch.Tensor], prefix: str = ""
) -> None:
    """Of a LoRA model with whole weights `state`: what peft makes of it, in double precision, rounded once.

    `truth` gets the merged model, `products` what the adapter by itself says: the changes scale·B·A, and modules
    trained whole; both with `prefix` before them. `adapted` is any peft model of the same kind; it is not changed.
    """
    adapted = copy.deepcopy(adapted).double()
    adapted.load_state_dict(dict(state))
    record(out, step, products(adapted), f"{prefix}products")
    record(out, step, gathered(adapted.merge_and_unload().state_dict()), f"{prefix}truth")


def products(adapted: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {}
    for name, module in adapted.named_modules():
        plain = name.removeprefix("base_model.model.")
        if isinstance(module, LoraLayer):
            found[f"{plain}.weight"] = module.get_delta_weight("default")
        elif isinstance(module, ModulesToSaveWrapper):
            whole = module.modules_to_save["default"].state_dict()
            found |= {f"{plain}.{key}": value for key, value in whole.items()}
    return found


def unwrapped(state: Iterable[tuple[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """By the model's own names, without FSDP1's."""
    return {name.replace("_fsdp_wrapped_module.", ""): value for name, value in state}


def _whole(value: torch.Tensor) -> torch.Tensor:
    return value.full_tensor() if hasattr(value, "full_tensor") else value
