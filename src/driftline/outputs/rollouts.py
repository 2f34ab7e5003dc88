"""Fixed responses, as JSON lines: what every checkpoint is asked to score.

A row has `prompt_ids` and `response_ids`, or text: `prompt` (used as it is) or `messages` (through the chat
template), and `response`. Text is tokenised once, by one tokenizer, prompt and response apart, so that the
boundary between them is kept and every checkpoint scores the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftline.errors import InputError
from driftline.models import NO_LIMITS, Limits
from driftline.prompts import encode, read_rows, token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Rollout:
    """Token ids of one prompt and one response to it."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]

    @property
    def length(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)


def read_rollouts(path: Path, tokenizer: PreTrainedTokenizerBase, *, limits: Limits = NO_LIMITS) -> list[Rollout]:
    """Every row of the file.

    Args:
        limits: of the model that is to score them.

    Raises:
        InputError: not JSON lines of that form, an empty response, a token the model lacks, or too long a row.
    """
    rollouts = []
    for index, row in enumerate(read_rows(path)):
        where = f"{path}, row {index},"
        prompt = _ids(row.get("prompt_ids"), where, "prompt_ids")
        if prompt is None:
            prompt = tuple(encode(row, tokenizer, where).ids)
        response = _ids(row.get("response_ids"), where, "response_ids")
        if response is None:
            if not isinstance(row.get("response"), str):
                raise InputError(f"{where} has neither response_ids nor a response as text: add one")
            response = tuple(token_ids(tokenizer, row["response"], where, special=False))
        if not response:
            raise InputError(f"{where} has an empty response: there is nothing to score, leave the row out")
        if not prompt:
            raise InputError(
                f"{where} has an empty prompt: the first response token needs one to follow, so leave the row out"
            )
        rollout = Rollout(prompt, response)
        if limits.context is not None and rollout.length > limits.context:
            raise InputError(
                f"{where} is {rollout.length} tokens long, more than the model's context of {limits.context}: "
                "leave the row out"
            )
        highest = max(*prompt, *response)
        if highest >= len(tokenizer):
            raise InputError(
                f"{where} holds a token id that the tokenizer does not have: it was made with another model, so sample anew with driftline rollouts"
            )
        if limits.vocabulary is not None and highest >= limits.vocabulary:
            raise InputError(
                f"{where} holds token {highest} and the model has {limits.vocabulary}: put the tokenizer of this model beside it"
            )
        rollouts.append(rollout)
    return rollouts


def _ids(value: Any, where: str, key: str) -> tuple[int, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or any(type(token) is not int or token < 0 for token in value):
        raise InputError(
            f"{where} has {key} that are not a list of token ids: make rows with driftline rollouts, or give texts"
        )
    return tuple(value)


def batches(lengths: Sequence[int], tokens: int, most_padding: float = 0.1) -> list[list[int]]:
    """Rows grouped for the model: by length, at most so many tokens (padding counted) and so much padding a batch.

    A row longer than `tokens` is a batch of its own.
    """
    grouped: list[list[int]] = []
    batch: list[int] = []
    used = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        width = lengths[batch[0]] if batch else lengths[row]
        full = width * (len(batch) + 1)
        if batch and (full > tokens or full - used - lengths[row] > most_padding * full):
            grouped.append(batch)
            batch, used = [], 0
        batch.append(row)
        used += lengths[row]
    return [*grouped, batch] if batch else grouped
