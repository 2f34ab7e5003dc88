"""What every backend is to the rest of driftline: something that continues prompts.

    with open_decoder(settings) as decoder:
        for responses in decoder.complete(jobs, settings): ...

Samples come back in the order in which they were asked for, so that what is written is a beginning of the whole, and
a second call goes on after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from driftline.prompts import Prompt

if TYPE_CHECKING:
    from driftline.decoding.sampler import Sampler
    from driftline.decoding.settings import GenerationSettings
    from driftline.decoding.speculative import Acceptance


@dataclass(frozen=True)
class Job:
    """One sample of one prompt; its seed is made from both numbers and the settings' own (`row_seed`)."""

    index: int
    sample: int
    prompt: Prompt


@dataclass(frozen=True)
class Response:
    """What followed a prompt.

    Attributes:
        text: without special tokens.
        ids: its tokens, the end token included when it was drawn; None where a server does not tell them.
        tokens: how many these are.
        finish_reason: `stop` (end token) or `length`.
    """

    text: str
    ids: list[int] | None
    tokens: int
    finish_reason: str


class Decoder(Protocol):
    """One model, or early + alpha (late - early) in logits of two, and what runs it."""

    @property
    def alpha(self) -> float | None:
        """Of extrapolated decoding; None for one model."""
        ...

    @property
    def chats(self) -> bool:
        """Whether the model takes messages."""
        ...

    @property
    def acceptance(self) -> Acceptance | None:
        """How many drafts were kept, where the backend drafts."""
        ...

    def prompt(self, row: Mapping[str, Any], where: str) -> Prompt:
        """The prompt of a row with `prompt` or `messages`, as this model is given it; `where` names it in sentences.

        Raises:
            InputError: it has neither, does not fit the chat template, or leaves no room in the model's context.
        """
        ...

    def complete(self, jobs: Sequence[Job], settings: GenerationSettings) -> Iterator[list[Response]]:
        """A response for each job, in the order of the jobs, some at a time as they are ready.

        Args:
            settings: how tokens are drawn, how many, and the seed; the models that it names play no part.
        """
        ...

    def late_alone(self) -> Decoder:
        """The late model of two, without the early one."""
        ...

    def with_logits(self) -> AbstractContextManager[Sampler]:
        """The same models in transformers, for what needs whole distributions.

        A backend that holds an accelerator leaves it for the time of the block.

        Raises:
            InputError: the models are not at hand.
        """
        ...
