"""One engine for every sample that driftline draws: from one model, or from two beyond the last checkpoint.

    sampler = Sampler(late, tokenizer, early=early, alpha=1.5)
    completions = sampler.sample(prompts, temperature=0.6, top_p=0.95, max_new_tokens=512, seeds=seeds)

What a row becomes depends on its prompt and its seed only, not on the rows beside it nor on how many
tokens are drafted at once (up to rounding: matrix products of other sizes differ in the last bits, and a
tie may then fall otherwise).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from driftline.decoding.distribution import SamplingParams
from driftline.decoding.speculative import Acceptance, Batch, OpenCompletion
from driftline.errors import InputError
from driftline.models import context_length, end_ids_of, vocabulary_size
from driftline.prompts import must_fit, text_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Completion:
    """What followed a prompt: token ids, the end token included when it was drawn, and why it stopped there."""

    ids: list[int]
    finish_reason: str  # "stop" (end token or stop string) or "length"


def row_seed(seed: int, index: int, sample: int) -> int:
    """The seed of one sample of one prompt: the same whatever else is sampled beside it."""
    digest = hashlib.blake2b(f"{seed} {index} {sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Sampler:
    """Draws completions from `late`, or, with `early`, from early + alpha (late - early) in logits."""

    def __init__(
        self,
        late: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        early: Any = None,
        alpha: float = 1.0,
        lookahead: int | None = None,
    ) -> None:
        """
        Args:
            early: the model of the early checkpoint (or `adapter.Adapted`); None decodes from `late` alone.
            lookahead: tokens drafted by `late` before `early` checks them; 1 runs the two in lockstep, None
                chooses by how many are accepted. It changes the speed, not the outcome.

        Raises:
            InputError: the two have logits of different sizes, or cannot take back what they have read.
        """
        self.late, self.tokenizer, self.early, self.alpha, self.lookahead = late, tokenizer, early, alpha, lookahead
        self.acceptance = Acceptance()
        self.end_ids = end_ids(late, tokenizer)
        models = [late] if early is None else [late, early]
        self.context = min((length for model in models if (length := context_length(model))), default=None)
        sizes = [vocabulary_size(model) for model in models]
        self.vocabulary = sizes[0]
        if len(set(sizes)) > 1:
            raise InputError(
                f"the late model has {sizes[0]} logits and the early one {sizes[1]}: give two models of one run"
            )
        for model in models:
            if getattr(model, "_is_stateful", False):
                raise InputError(
                    f"{model.config.model_type} models carry a state that cannot be cut back: write a forecast with driftline extrapolate instead"
                )

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        seeds: Sequence[int],
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        stop: Sequence[str] = (),
    ) -> list[Completion]:
        """One completion per prompt, all in one batch; a prompt given several times is read once.

        Args:
            prompts: token ids, each at least one.
            seeds: one per prompt (`row_seed`).
            temperature: 0 is greedy.
            top_k: 0 keeps all.
            stop: a completion ends with the token that completes one of these strings.

        Raises:
            InputError: a setting is out of range; a prompt is empty or leaves no room in the model's context.
        """
        import torch

        params = SamplingParams(temperature, top_p, top_k)
        if max_new_tokens < 1:
            raise InputError(f"--max-new-tokens is {max_new_tokens}: it must be at least 1")
        for prompt in prompts:
            self.must_fit(prompt, "a prompt")
        rows = [
            OpenCompletion(
                list(prompt), seed, min(max_new_tokens, (self.context or 2**62) - len(prompt)), params, self.alpha
            )
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        if not rows:
            return []
        with torch.inference_mode():
            batch = Batch(self.late, self.early, context=self.context)
            batch.join(batch.arrivals(rows))
            while not batch.finished:
                for row, tokens, _ in batch.round(self.drafts(), self.acceptance):
                    row.take(tokens, self.end_ids, lambda ids: self.stops(ids, stop))
        return [Completion(row.ids, row.finish_reason or "") for row in rows]

    def text(self, completion: Completion, stop: Sequence[str] = ()) -> str:
        """A completion's text without special tokens, up to the first stop string."""
        text = text_of(self.tokenizer, completion.ids, special=False)
        found = [text.index(end) for end in stop if end in text]
        return text[: min(found, default=None)]

    def must_fit(self, prompt: Sequence[int], what: str) -> None:
        """Refuse a prompt that is empty, leaves no room to answer or has other tokens; `what` names it in the sentence."""
        must_fit(prompt, self.context, what, vocabulary=self.vocabulary)

    def drafts(self) -> int:
        """How many tokens to draft in the next round."""
        return 1 if self.early is None else self.lookahead or self.acceptance.lookahead()

    def stops(self, ids: list[int], stop: Sequence[str]) -> bool:
        """Whether the text of `ids` holds a stop string that its last token completed."""
        if not stop:
            return False
        longest = max(len(text.encode()) for text in stop)  # a token is at least a byte, so that many hold it
        tail = text_of(self.tokenizer, ids[-longest - 1 :], special=False)
        return any(text in tail for text in stop)


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end a completion: those of the model's generation settings and of the tokenizer."""
    declared = end_ids_of(getattr(model.generation_config, "eos_token_id", None), model.config.name_or_path)
    return declared if tokenizer.eos_token_id is None else declared | {tokenizer.eos_token_id}
