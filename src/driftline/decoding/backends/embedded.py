"""The embedded backend: transformers in this process, with driftline's own lossless decoding of two models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from driftline.decoding.backends.decoder import Job, Response
from driftline.decoding.sampler import Sampler, row_seed
from driftline.decoding.settings import GenerationSettings
from driftline.decoding.speculative import Acceptance
from driftline.prompts import Prompt, encode

BATCH_SIZE = 16


class Embedded:
    """A sampler as a decoder: completions are decoded so many at once."""

    def __init__(self, sampler: Sampler, batch_size: int = BATCH_SIZE) -> None:
        self.sampler, self.batch_size = sampler, batch_size

    @property
    def alpha(self) -> float | None:
        return None if self.sampler.early is None else self.sampler.alpha

    @property
    def chats(self) -> bool:
        return self.sampler.tokenizer.chat_template is not None

    @property
    def acceptance(self) -> Acceptance:
        return self.sampler.acceptance

    def prompt(self, row: Mapping[str, Any], where: str) -> Prompt:
        prompt = encode(row, self.sampler.tokenizer, where)
        self.sampler.must_fit(prompt.ids, f"{where},")
        return prompt

    def complete(self, jobs: Sequence[Job], settings: GenerationSettings) -> Iterator[list[Response]]:
        for start in range(0, len(jobs), self.batch_size):
            batch = jobs[start : start + self.batch_size]
            completions = self.sampler.sample(
                [job.prompt.ids for job in batch],
                temperature=settings.temperature,
                top_p=settings.top_p,
                top_k=settings.top_k,
                max_new_tokens=settings.max_new_tokens,
                seeds=[row_seed(settings.seed, job.index, job.sample) for job in batch],
            )
            yield [Response(self.sampler.text(c), c.ids, len(c.ids), c.finish_reason) for c in completions]

    def late_alone(self) -> Embedded:
        return Embedded(Sampler(self.sampler.late, self.sampler.tokenizer), self.batch_size)

    def with_logits(self) -> AbstractContextManager[Sampler]:
        return nullcontext(self.sampler)
