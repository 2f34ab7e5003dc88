"""From what the user names to a decoder: the models, and the backend that runs them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from driftline.decoding.backends.backend import Backend
from driftline.decoding.backends.decoder import Decoder
from driftline.decoding.settings import GenerationSettings
from driftline.errors import InputError
from driftline.outputs.logprobs import Score


@contextmanager
def open_decoder(settings: GenerationSettings, batch_size: int | None = None) -> Iterator[Decoder]:
    """The decoder of the models that `settings` names, by the backend that it names.

    Args:
        batch_size: completions decoded at once, of `http` requests in flight; None leaves it to the backend.

    Raises:
        InputError: something cannot be loaded or reached, or the models do not fit together.
    """
    must_be_positive(batch_size)
    name = settings.backend.name
    if name == "transformers":
        from driftline.decoding.backends.embedded import BATCH_SIZE, Embedded
        from driftline.decoding.sources import sampler_of

        yield Embedded(sampler_of(settings), batch_size or BATCH_SIZE)
        return
    if name == "vllm":
        from driftline.decoding.backends.vllm_opening import open_models

        with open_models(settings, batch_size) as decoder:
            yield decoder
        return
    if name == "http":
        from driftline.decoding.backends.endpoint import Endpoint

        _must_be_theirs(settings.dtype)
        with Endpoint(settings.backend, alpha=settings.alpha, batch_size=batch_size) as endpoint:
            yield endpoint
        return
    raise InputError(f"--backend {name} does not run here: use transformers")


def scorer(backend: Backend, dtype: str) -> tuple[str, Score] | None:
    """What scores fixed responses by a checkpoint, and what tells it from others; None is transformers in this process.

    Args:
        dtype: to run models in; `auto`: as saved.
    """
    if backend.name == "transformers":
        return None
    if backend.name == "vllm":
        from driftline.decoding.backends.vllm_scoring import token_logprobs
        from driftline.decoding.vllm.launch import must_be_installed

        must_be_installed()
        return "vllm", partial(token_logprobs, dtype=dtype)
    if backend.name == "http":
        from driftline.decoding.backends.connection import shown
        from driftline.decoding.backends.endpoint import model_name
        from driftline.decoding.backends.forcing import ServedScore

        _must_be_theirs(dtype)
        model_name(backend, 0)
        return f"http {shown(backend)} {backend.model}", ServedScore(backend)
    raise InputError(f"--backend {backend.name} does not run here: use transformers")


def _must_be_theirs(dtype: str) -> None:
    if dtype != "auto":
        raise InputError(f"--dtype {dtype} is of models that run here, and a server has its own: leave it out")


def must_be_positive(batch_size: int | None) -> None:
    """Refuse a batch of nothing."""
    if batch_size is not None and batch_size < 1:
        raise InputError(f"--batch-size is {batch_size}: it must be at least 1")
