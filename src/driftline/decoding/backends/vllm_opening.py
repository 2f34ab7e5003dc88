"""From models to a decoder that vLLM's engine runs: tokenizer, context and end tokens, all but the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from driftline import models
from driftline.checkpoints.layouts import Checkpoint
from driftline.decoding import adapter
from driftline.decoding.backends.vllm_decoder import InTransformers, VllmDecoder
from driftline.decoding.backends.vllm_engine import Weights, must_be_installed
from driftline.decoding.sampler import Sampler
from driftline.decoding.settings import GenerationSettings
from driftline.decoding.sources import early_of, sampler_of
from driftline.outputs.checkpoint_model import load_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@contextmanager
def open_models(settings: GenerationSettings, batch_size: int | None = None) -> Iterator[VllmDecoder]:
    """The decoder of the models that `settings` names.

    Raises:
        InputError: vLLM is not installed, or the models cannot be run together; said before the engine starts.
    """
    must_be_installed()
    early = early_of(settings.late, settings.early, settings.alpha)
    if early is not None:
        from driftline.decoding.vllm.checks import check_pair

        check_pair(early, settings.late)
    described = adapter.base_of(settings.late) if adapter.is_adapter(settings.late) else settings.late
    yield _decoder(
        Weights(settings.late, early, settings.dtype, batch_size),
        described,
        models.load_tokenizer(described),
        InTransformers(lambda: sampler_of(settings)),
        settings.alpha,
    )


def decoder_of(
    late: Checkpoint | Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    early: Checkpoint | None = None,
    alpha: float | None = None,
    dtype: str = "auto",
    batch_size: int | None = None,
) -> VllmDecoder:
    """The decoder of a checkpoint of a run or a model's folder; with `early` and `alpha` of two checkpoints.

    Raises:
        InputError: vLLM is not installed.
    """
    must_be_installed()

    def load() -> Sampler:
        last = load_checkpoint(late, dtype=dtype)
        if early is None or alpha is None:
            return Sampler(last, tokenizer)
        return Sampler(last, tokenizer, early=load_checkpoint(early, dtype=dtype), alpha=alpha)

    described = late.model if isinstance(late, Checkpoint) else late
    return _decoder(Weights(late, early, dtype, batch_size), described, tokenizer, InTransformers(load), alpha)


def _decoder(
    weights: Weights,
    described: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    transformers: InTransformers,
    alpha: float | None,
) -> VllmDecoder:
    """The same of a model whose configuration is in `described`."""
    own = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
    ends = models.declared_ends(described).union(own)
    return VllmDecoder(weights, tokenizer, models.context_of(described), ends, transformers, alpha)
