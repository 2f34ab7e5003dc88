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
from driftline.decoding.backends.vllm_engine import Source, Weights
from driftline.decoding.sampler import Sampler
from driftline.decoding.settings import GenerationSettings
from driftline.decoding.sources import early_of, sampler_of
from driftline.decoding.vllm.launch import must_be_installed
from driftline.outputs.checkpoint_model import load_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@contextmanager
def open_models(settings: GenerationSettings, batch_size: int | None = None) -> Iterator[VllmDecoder]:
    """The decoder of the models that `settings` names.

    Raises:
        InputError: vLLM is not installed, or the models cannot be run together; said before the engine starts.
    """
    late = settings.late
    early = early_of(late, settings.early, settings.alpha)
    must_be_installed()
    described = adapter.base_of(late) if adapter.is_adapter(late) else late
    if early is not None and described == late:
        models.refuse_different_vocabularies(early, late)
    weights = Weights(late, early, settings.dtype, batch_size)
    tokenizer = models.load_tokenizer(described)
    yield _decoder(weights, tokenizer, InTransformers(lambda: sampler_of(settings)), settings.alpha)


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

    return _decoder(Weights(late, early, dtype, batch_size), tokenizer, InTransformers(load), alpha)


def _decoder(
    weights: Weights, tokenizer: PreTrainedTokenizerBase, transformers: InTransformers, alpha: float | None
) -> VllmDecoder:
    """The decoder of models whose tokenizer is loaded; a pair's context is the shorter one."""
    described = [_described(source) for source in (weights.late, weights.early) if source is not None]
    contexts = [limits.context for limits in map(models.limits_of, described) if limits.context is not None]
    own = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
    ends = models.declared_ends(described[0]).union(own)
    return VllmDecoder(weights, tokenizer, min(contexts, default=None), ends, transformers, alpha)


def _described(source: Source) -> str | Path:
    """Where a model's configuration is: of an adapter, its base's."""
    if isinstance(source, Checkpoint):
        return source.model
    return adapter.base_of(source) if adapter.is_adapter(source) else source
