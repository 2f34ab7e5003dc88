"""LoRA runs: checkpoints that are adapters on one base model, which is held in memory once.

Without its adapter the model is the run's step 0; with another adapter it is another checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftline.checkpoints.adapter_settings import CONFIG
from driftline.errors import InputError, in_one_sentence
from driftline.files.json import read_json
from driftline.models import load_model, refuse_pipes
from driftline.rehearsal import refuse_claims_of_adapters

if TYPE_CHECKING:
    import torch


class Adapted:
    """One model of several on the same base weights, called like any model."""

    def __init__(self, model: Any, adapter: str | None) -> None:
        """`adapter` is its name in the peft `model`; None is the base alone."""
        self.model, self.adapter = model, adapter
        self.config, self.device, self.generation_config = model.config, model.device, model.generation_config

    def __call__(self, **inputs: Any) -> Any:
        if self.adapter is None:
            with self.model.disable_adapter():
                return self.model(**inputs)
        self.model.set_adapter(self.adapter)
        return self.model(**inputs)


def is_adapter(source: str | Path) -> bool:
    """Whether `source` is a folder that peft wrote."""
    return (Path(source) / CONFIG).is_file()


def base_of(adapter: str | Path) -> str:
    """The base model that an adapter names, as a folder or Hub name.

    Raises:
        InputError: its adapter_config.json cannot be read, or names none.
    """
    try:
        base = read_json(Path(adapter) / CONFIG).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{adapter} has an {CONFIG} that cannot be read ({error}): save it again") from error
    if not isinstance(base, str) or not base:
        raise InputError(f"{adapter} does not name its base model: set base_model_name_or_path in {CONFIG}")
    return base


def refuse_other_base(late: str | Path, early: str | Path | None) -> None:
    """The early model of an adapter is its base (None, or by name), or another adapter of that base.

    Raises:
        InputError: it is something else.
    """
    base = base_of(late)
    if early is None or str(early) == base:
        return
    if not is_adapter(early):
        raise InputError(f"{late} is a LoRA adapter of {base}: the early model must be that, or another adapter of it")
    if base_of(early) != base:
        raise InputError(f"{early} is an adapter of {base_of(early)} and {late} of {base}: give two of one run")


def load_adapted(
    late: str | Path,
    early: str | Path | None = None,
    *,
    dtype: str = "auto",
    device: torch.device | str | None = None,
) -> tuple[Adapted, Adapted]:
    """The late checkpoint and the early one: another adapter of the same base, or, for None, the base itself.

    Raises:
        InputError: an adapter cannot be loaded, or the two have different bases.
    """
    refuse_other_base(late, early)
    base = base_of(late)
    try:
        from peft import PeftModel
    except ImportError as error:
        raise InputError(
            f"{late} is a LoRA adapter, which needs {error.name}: pip install 'driftline[lora]'"
        ) from error
    model = load_model(base, dtype=dtype, device=device)
    with in_one_sentence(f"the adapters cannot be loaded onto {base}", "give adapters of that model"):
        folders = [Path(folder) for folder in (late, early) if folder is not None]
        for folder in folders:
            refuse_pipes(folder)
            _refuse_megatron(folder)
        refuse_claims_of_adapters(model, folders)
        adapted = PeftModel.from_pretrained(model, str(late), adapter_name="late")
        if early is not None:
            adapted.load_adapter(str(early), adapter_name="early")
    adapted.eval()
    return Adapted(adapted, "late"), Adapted(adapted, None if early is None else "early")


def _refuse_megatron(adapter: Path) -> None:
    """Whatever module such an adapter names as Megatron's is imported by peft, which runs it."""
    if read_json(adapter / CONFIG).get("megatron_config"):
        raise InputError(
            f"{adapter / CONFIG} has megatron_config, for Megatron's own layers: give an adapter of a model of transformers"
        )
