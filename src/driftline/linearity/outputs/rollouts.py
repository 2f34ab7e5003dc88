"""Fixed responses, as JSON lines: what every checkpoint is asked to score.

A row has `prompt_ids` and `response_ids`, or text: `prompt` (used as it is) or `messages` (through the chat
template), and `response`. Text is tokenised once, by one tokenizer, prompt and response apart, so that the
boundary between them is kept and every checkpoint scores the same tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftline.errors import InputError

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


def read_rollouts(path: Path, tokenizer: PreTrainedTokenizerBase, *, longest: int | None = None) -> list[Rollout]:
    """Every row of the file.

    Args:
        longest: tokens that the model can take; None for no limit.

    Raises:
        InputError: not JSON lines of that form, an empty response, a token the model lacks, or too long a row.
    """
    rollouts = []
    for number, row in _rows(path):
        where = f"{path}, line {number}"
        prompt = _prompt_ids(row, tokenizer, where)
        response = _ids(row.get("response_ids"), where, "response_ids")
        if response is None:
            if not isinstance(row.get("response"), str):
                raise InputError(f"{where} has neither response_ids nor a response as text")
            response = tuple(tokenizer(row["response"], add_special_tokens=False)["input_ids"])
        if not response:
            raise InputError(f"{where} has an empty response: there is nothing to score, leave the row out")
        if not prompt:
            raise InputError(f"{where} has an empty prompt: the first response token needs one to follow")
        rollout = Rollout(prompt, response)
        if longest is not None and rollout.length > longest:
            raise InputError(
                f"{where} is {rollout.length} tokens long, more than the model's context of {longest}: leave the row out"
            )
        if max(max(prompt), max(response)) >= len(tokenizer):
            raise InputError(
                f"{where} holds a token id that the tokenizer does not have: it was made with another model"
            )
        rollouts.append(rollout)
    if not rollouts:
        raise InputError(f"{path} holds no rollouts: give JSON lines with prompt_ids and response_ids, or text")
    return rollouts


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise InputError(f"{path}, line {number} is not a JSON object")
                    yield number, row
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give a file of rollouts") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON lines ({error})") from error


def _prompt_ids(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, where: str) -> tuple[int, ...]:
    ids = _ids(row.get("prompt_ids"), where, "prompt_ids")
    if ids is not None:
        return ids
    if isinstance(row.get("prompt"), str):
        return tuple(tokenizer(row["prompt"])["input_ids"])
    if isinstance(row.get("messages"), list):
        if not tokenizer.chat_template:
            raise InputError(f"{where} has messages, but the model has no chat template: give prompt or prompt_ids")
        text = tokenizer.apply_chat_template(row["messages"], tokenize=False, add_generation_prompt=True)
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    raise InputError(f"{where} has none of prompt_ids, prompt and messages")


def _ids(value: Any, where: str, key: str) -> tuple[int, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or any(type(token) is not int or token < 0 for token in value):
        raise InputError(f"{where}: {key} is not a list of token ids")
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
