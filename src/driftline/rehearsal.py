"""What loading a model would make, found out before it is loaded.

A library makes all the layers, experts, tables and adapters that a configuration speaks of before it looks at the
weights, and runs an adapter's patterns over the names of all modules. Here the same is done in a process of its own,
within bounds, on torch's `meta` device, where a tensor has a shape and no memory.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftline.apart import Apart, Refused, TooMuch
from driftline.errors import InputError
from driftline.files.json import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SECONDS, _OF_GGUF = 3.0, 60.0  # a model of a thousand tensors takes .1; the vocabulary in a GGUF file several
_OF_ONE_TOKEN = 1.0  # after which what was seen is enough
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
_PACKED = 8  # numbers in a byte at most, where they are quantised
_FEW = 1 << 24  # numbers that no file need hold
_TABLES = 1 << 29  # bytes of what a model computes by itself, such as masks; 100 MB of GPT-Neo's


def refuse_claims(
    folder: Path, *, model: bool, source: str | Path | None = None, holds: int | None = None, gguf: str | None = None
) -> None:
    """Refuse a configuration that asks for much more than its weights are. What fails otherwise is left to its loader.

    Args:
        model: whether the model is loaded, not only what its configuration says.
        source: how the folder is called in the sentence.
        holds: numbers that the weights are; default: what the folder's files hold at most.
        gguf: the file that holds the configuration too.

    Raises:
        InputError: the model would take too long to make, or more memory than its weights account for.
    """
    name = gguf or "config.json"
    asking = f"{source or folder}/{name}"
    found = _rehearsed(str(folder), model, gguf, _stamp(folder / name))
    if isinstance(found, str):
        raise InputError(f"{asking} asks for a model whose making takes {found}: give the folder of a complete model")
    numbers, tables, largest = found or (0, 0, 0)
    held = _held(folder, packed=gguf is not None) if holds is None else holds
    if held is not None and numbers > 2 * held + _FEW:
        raise InputError(
            f"{asking} asks for a model of {numbers:,} weights, and there are {held:,} at most: "
            "give the folder of a complete model"
        )
    if tables > _TABLES:
        raise InputError(
            f"{asking} asks for tables of {tables >> 20:,} MiB beside the weights: mend the number of positions in it"
        )
    if largest > max(numbers, _TABLES >> 2):
        raise InputError(
            f"{asking} asks for {largest:,} numbers at once to take one token: mend the sizes of windows and chunks in it"
        )


def refuse_claims_of_adapters(model: PreTrainedModel, adapters: Sequence[Path]) -> None:
    """Refuse adapters of a loaded model that ask for much more than their weights are, or whose patterns take too long.

    Raises:
        InputError: as of `refuse_claims`.
    """
    for folder in adapters:
        asking = folder / "adapter_config.json"
        try:
            numbers = Apart(partial(_adapted, model), seconds=_SECONDS)(str(folder))
        except TooMuch as error:
            raise InputError(f"{asking} asks for an adapter whose making takes {error}: save it again") from error
        except Refused:
            continue  # which who loads it will say
        if numbers > 2 * (held := _held(folder) or 0) + _FEW:
            raise InputError(
                f"{asking} asks for an adapter of {numbers:,} weights, and there are {held:,} at most: save it again"
            )


def _held(folder: Path, *, packed: bool = False) -> int | None:
    """The most numbers that the weight files of a folder can hold; None where there are none."""
    sizes = [file.stat().st_size for file in folder.iterdir() if file.suffix in _WEIGHTS and file.is_file()]
    with suppress(OSError, ValueError, TypeError):  # who loads it will say
        packed = packed or "quantization_config" in read_json(folder / "config.json")
    return sum(sizes) * (_PACKED if packed else 1) if sizes else None


def _stamp(file: Path) -> tuple[int, int]:
    """What tells one state of a file from another."""
    status = file.stat()
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=64)
def _rehearsed(folder: str, model: bool, gguf: str | None, stamp: Any) -> tuple[int, int, int] | str | None:
    """Numbers of the model, bytes of its tables, and numbers of the largest tensor that one token makes.

    Or which bound was passed; or None, where it fails.
    """
    _import_ahead(Path(folder), model)
    try:
        numbers, tables, largest = Apart(_made, seconds=_OF_GGUF if gguf else _SECONDS)(folder, model, gguf)
    except TooMuch as error:
        return str(error)
    except Refused:
        return None
    return numbers, tables, largest


def _import_ahead(folder: Path, model: bool) -> None:
    """What the child would import, and this process once more: it takes time, which is none of the configuration's."""
    with suppress(Exception):  # of a damaged configuration, or of a model that needs what is not installed
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        kind = CONFIG_MAPPING[read_json(folder / "config.json")["model_type"]]
        if model:
            from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

            MODEL_FOR_CAUSAL_LM_MAPPING.get(kind)


def _made(folder: str, model: bool, gguf: str | None) -> tuple[int, int, int]:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, **({"gguf_file": gguf} if gguf else {}))
    if not model:
        return 0, 0, 0
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)  # others are not in a forked child, and would be waited for
    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, trust_remote_code=False)
    tables = sum(4 * value.numel() for value in made.buffers())
    return _numbers(made), tables, _largest_of_one_token(made)


def _largest_of_one_token(model: PreTrainedModel) -> int:
    """Numbers of the largest tensor that is made as the model takes one token, as far as it gets without values."""
    import torch
    from torch.overrides import TorchFunctionMode
    from torch.utils._pytree import tree_leaves

    class Largest(TorchFunctionMode):
        found = 0

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if time.process_time() > until:
                raise TimeoutError
            if func in (torch.Tensor.item, torch.Tensor.__bool__):
                return True  # of no values: whether a mask is needed, and the like
            made = func(*args, **(kwargs or {}))
            given = {id_of(value) for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)}
            for value in tree_leaves(made):
                if isinstance(value, torch.Tensor) and id_of(value) not in given:  # a view holds nothing of its own
                    self.found = max(self.found, value.numel())
            return made

    def id_of(value: torch.Tensor) -> int:
        return value.untyped_storage()._cdata

    until = time.process_time() + _OF_ONE_TOKEN
    with suppress(Exception), torch.inference_mode(), Largest() as largest:
        model.eval()(input_ids=torch.zeros((1, 1), dtype=torch.long, device="meta"), use_cache=False)
    return largest.found


def _numbers(model: Any) -> int:
    return sum(value.numel() for value in model.parameters())


def _adapted(model: PreTrainedModel, adapter: str) -> int:
    """Numbers that the adapter adds; its first values, which may be computed from the base's weights, are left out."""
    import torch
    from peft import PeftConfig, get_peft_model

    torch.set_num_threads(1)
    config = PeftConfig.from_pretrained(adapter)
    if hasattr(config, "init_lora_weights"):
        config.init_lora_weights = False
    with torch.device("meta"):
        base = type(model)(model.config)
        before = _numbers(base)
        return _numbers(get_peft_model(base, config)) - before
