"""From what the user names to a sampler: one model, two checkpoints, or the adapters of a LoRA run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftline.decoding import adapter
from driftline.decoding.distribution import FARTHEST
from driftline.decoding.sampler import Sampler
from driftline.decoding.settings import GenerationSettings
from driftline.errors import InputError
from driftline.models import load_model, load_tokenizer, refuse_different_vocabularies, vocabulary_size

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
    refuse_unpaired(late, early, alpha)
    first: Any = None
    if adapter.is_adapter(late):
        base = adapter.base_of(late)
        last, first = adapter.load_adapted(late, None if str(early) == base else early, dtype=dtype, device=device)
        tokenizer = load_tokenizer(base)
    else:
        if early is not None:
            refuse_different_vocabularies(early, late)
            first = load_model(early, dtype=dtype, device=device)
        last, tokenizer = load_model(late, dtype=dtype, device=device), load_tokenizer(late)
        if early is not None:
            _cut_padding(first, last, tokenizer)
    if alpha is None:
        return Sampler(last, tokenizer)
    return Sampler(last, tokenizer, early=first, alpha=alpha)


def refuse_unpaired(late: str | Path, early: str | Path | None, alpha: float | None) -> None:
    """What can be said against two models and an alpha before anything of them is loaded.

    Raises:
        InputError: alpha is out of range, one of early and alpha is missing, or an adapter is of another base.
    """
    if alpha is not None and not abs(alpha) <= FARTHEST:
        raise InputError(
            f"--alpha is {alpha}: give a number between {-FARTHEST:g} and {FARTHEST:g} (1 is the late model, 0 the early one)"
        )
    if alpha is None and early is not None:
        raise InputError("--early needs --alpha: give how far to go from the early model (1 is the late one)")
    if adapter.is_adapter(late):
        adapter.refuse_other_base(late, early)
    elif alpha is not None and early is None:
        raise InputError("--alpha needs --early: give the model to extrapolate from")


def early_of(late: str | Path, early: str | Path | None, alpha: float | None) -> str | Path | None:
    """The early model: that which is given, or the base of the adapter `late`; None where `late` runs alone.

    Raises:
        InputError: as of `refuse_unpaired`.
    """
    refuse_unpaired(late, early, alpha)
    return None if alpha is None else early or adapter.base_of(late)


def common_rows(early: int, late: int, tokens: int) -> int:
    """The logits that are combined: all of two models of one size, else those of tokens, as the rest is padding.

    Args:
        early, late: logits of each; tokens: of the tokenizer, its highest id and one.

    Raises:
        InputError: the models differ, and one has fewer logits than the tokenizer has tokens.
    """
    if early == late:
        return late
    if min(early, late) < tokens:
        raise InputError(
            f"the late model has {late} logits and the early one {early}, of a tokenizer of {tokens} tokens, which are "
            "more than padding: give two models of one run"
        )
    return tokens


def _cut_padding(early: PreTrainedModel, late: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Where vocabularies are padded to different sizes, take the padding off both: it is no tokens."""
    first, last = (vocabulary_size(model) for model in (early, late))
    rows = common_rows(first, last, tokens=max(tokenizer.get_vocab().values()) + 1)
    for model in (early, late):
        if vocabulary_size(model) > rows:
            model.resize_token_embeddings(rows)


def sampler_of(settings: GenerationSettings) -> Sampler:
    """The sampler of the models that `settings` names."""
    return load_sampler(settings.late, early=settings.early, alpha=settings.alpha, dtype=settings.dtype)
