"""The vllm backend: samples by vLLM's engine, of one model or of two side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from driftline.decoding.backends.decoder import Job, Response
from driftline.decoding.backends.vllm_engine import Weights, close_engines, engine_of
from driftline.decoding.backends.vllm_settings import must_be_warm, sampling_arguments
from driftline.decoding.sampler import Sampler, row_seed
from driftline.decoding.settings import GenerationSettings
from driftline.errors import InputError
from driftline.prompts import Prompt, encode, must_fit, text_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class InTransformers:
    """The same models in transformers, loaded while anyone needs them; an engine that holds an accelerator ends."""

    def __init__(self, load: Callable[[], Sampler]) -> None:
        self._load = load
        self._users = 0
        self._sampler: Sampler | None = None

    @contextmanager
    def open(self) -> Iterator[Sampler]:
        """The sampler of both models, or of the one there is."""
        import torch

        if self._sampler is None:
            if torch.accelerator.is_available():
                close_engines()
            self._sampler = self._load()
        self._users += 1
        try:
            yield self._sampler
        finally:
            self._users -= 1
            if not self._users:
                self._sampler = None
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()


@dataclass(frozen=True)
class VllmDecoder:
    """A decoder whose engine starts when samples are first asked for.

    Attributes:
        alpha: of two models' extrapolated decoding; None for one, and for the late one of two.
        context: positions that the model takes, where its configuration says so.
        ends: tokens that end a completion.
    """

    weights: Weights
    tokenizer: PreTrainedTokenizerBase
    context: int | None
    ends: frozenset[int]
    transformers: InTransformers
    alpha: float | None = None

    @property
    def chats(self) -> bool:
        return self.tokenizer.chat_template is not None

    @property
    def acceptance(self) -> None:
        return None

    def prompt(self, row: Mapping[str, Any], where: str) -> Prompt:
        prompt = encode(row, self.tokenizer, where)
        must_fit(prompt.ids, self.context, f"{where},")
        return prompt

    def complete(self, jobs: Sequence[Job], settings: GenerationSettings) -> Iterator[list[Response]]:
        if not jobs:
            return
        must_be_warm(settings.temperature)
        engine = engine_of(self.weights)
        lengths = [self._most(job.prompt.ids, settings.max_new_tokens) for job in jobs]
        needed = max(len(job.prompt.ids) + most for job, most in zip(jobs, lengths, strict=True))
        if needed > engine.longest:
            raise InputError(
                f"the longest row may take {needed} positions and vLLM has room for {engine.longest}: lower "
                "--max-new-tokens, or give its cache more memory"
            )
        alpha = None if self.weights.early is None else 1.0 if self.alpha is None else self.alpha
        requests = [
            (
                job.prompt.ids,
                sampling_arguments(
                    settings,
                    seed=row_seed(settings.seed, job.index, job.sample),
                    length=most,
                    ends=self.ends,
                    alpha=alpha,
                ),
            )
            for job, most in zip(jobs, lengths, strict=True)
        ]
        for outputs in engine.run(requests):
            yield [self._response(output.outputs[0]) for output in outputs]

    def _most(self, prompt: Sequence[int], longest: int) -> int:
        return longest if self.context is None else min(longest, self.context - len(prompt))

    def _response(self, found: Any) -> Response:
        ids = list(found.token_ids)
        if found.finish_reason not in ("stop", "length"):
            raise InputError(f"vLLM gave a row up ({found.finish_reason}): repeat the command to go on")
        text = text_of(self.tokenizer, ids, special=False)
        return Response(text, ids, len(ids), found.finish_reason)

    def late_alone(self) -> VllmDecoder:
        """The same engine, which at alpha 1 is the late model exactly."""
        return replace(self, alpha=None)

    @contextmanager
    def with_logits(self) -> Iterator[Sampler]:
        with self.transformers.open() as both:
            alone = self.alpha is None and self.weights.early is not None
            yield Sampler(both.late, both.tokenizer) if alone else both
