"""From what the user names to a sampler: one model, two checkpoints, or the adapters of a LoRA run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftline.decoding import adapter
from driftline.decoding.sampler import Sampler
from driftline.decoding.settings import GenerationSettings
from driftline.errors import InputError
from driftline.models import load_model, load_tokenizer, refuse_different_vocabularies

if TYPE_CHECKING:
    import torch


def load_sampler(
    late: str | Path,
    *,
    early: str | Path | None = None,
    alpha: float | None = None,
    dtype: str = "auto",
    device: torch.device | str | None = None,
) -> Sampler:
    """A sampler of `late` alone (no `alpha`), or of early + alpha (late - early).

    Args:
        late: a model's folder or Hub name, or a LoRA adapter's folder.
        early: likewise; left out, it is the base model of the adapter `late`.

    Raises:
        InputError: something cannot be loaded, the two do not fit, or one of them is missing.
    """
    must_be_whole(late, early, alpha)
    first: Any = None
    if adapter.is_adapter(late):
        base = adapter.base_of(late)
        own_base = early is None or str(early) == base
        last, first = adapter.load_adapted(late, None if own_base else early, dtype=dtype, device=device)
        tokenizer = load_tokenizer(base)
    else:
        if early is not None:
            refuse_different_vocabularies(early, late)
            first = load_model(early, dtype=dtype, device=device)
        last, tokenizer = load_model(late, dtype=dtype, device=device), load_tokenizer(late)
    if alpha is None:
        return Sampler(last, tokenizer)
    return Sampler(last, tokenizer, early=first, alpha=alpha)


def must_be_whole(late: str | Path, early: str | Path | None, alpha: float | None) -> str | Path | None:
    """The early model: that which is given, or the base of the adapter `late`; None where `late` runs alone.

    Raises:
        InputError: one of two models or alpha is missing, or the early one is not of the adapter's run.
    """
    if alpha is None and early is not None:
        raise InputError("--early needs --alpha: give how far to go from the early model (1 is the late one)")
    if not adapter.is_adapter(late):
        if alpha is not None and early is None:
            raise InputError("--alpha needs --early: give the model to extrapolate from")
        return early
    base = adapter.base_of(late)
    if early is not None and str(early) != base and not adapter.is_adapter(early):
        raise InputError(f"{late} is a LoRA adapter of {base}: the early model must be that, or another adapter of it")
    return None if alpha is None else early or base


def sampler_of(settings: GenerationSettings) -> Sampler:
    """The sampler of the models that `settings` names."""
    return load_sampler(settings.late, early=settings.early, alpha=settings.alpha, dtype=settings.dtype)
