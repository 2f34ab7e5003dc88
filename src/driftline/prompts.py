"""Prompts as token ids: text as it is, or messages through the model's chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftline.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Prompt:
    """What the model is given: the text, and its tokens.

    Where a server does the encoding the tokens are not known, nor the text of a chat: then there are its messages.
    """

    text: str
    ids: list[int]
    messages: list[dict[str, Any]] | None = None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file, each an object; blank lines are passed over.

    Raises:
        InputError: it cannot be read, or a line is not a JSON object; names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InputError(f"{path} cannot be read ({reason}): give a JSONL file") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}, is not JSON ({error.msg}): write one object a line") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}, is not a JSON object: write one a line")
        rows.append(row)
    if not rows:
        raise InputError(f"{path} has no rows: give one JSON object per line")
    return rows


def encode(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, where: str) -> Prompt:
    """The prompt of a row with `prompt` (text) or `messages` (a list of role and content); `where` names it in errors.

    Raises:
        InputError: it has neither, or the tokenizer has no chat template or the template refuses the messages.
    """
    from jinja2 import TemplateError

    text, messages = row.get("prompt"), row.get("messages")
    if messages is not None:
        if tokenizer.chat_template is None:
            raise InputError(f"{where} has messages, but the model has no chat template: give prompt instead")
        must_be_messages(messages, where)
        said = [_as_text(message, where) for message in messages]
        try:
            rendered = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        except (TemplateError, TypeError, KeyError) as error:
            raise InputError(
                f"{where} does not fit the model's chat template ({error}): mend the messages, or give prompt"
            ) from error
        return Prompt(rendered, tokenizer(rendered, add_special_tokens=False).input_ids)
    if not isinstance(text, str) or not text:
        raise InputError(f"{where} has neither prompt (a text) nor messages: add one")
    begun = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
    return Prompt(text, tokenizer(text, add_special_tokens=not begun).input_ids)


def _as_text(message: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A message whose content is text, since templates write anything else out as Python does: parts are put together.

    Content may be null beside tool calls, as templates know.

    Raises:
        InputError: the content is something else, such as an image.
    """
    content = message["content"]
    if isinstance(content, str) or (content is None and message.get("tool_calls")):
        return dict(message)
    if isinstance(content, list) and content and all(map(_is_text, content)):
        return {**message, "content": "\n".join(part["text"] for part in content)}  # joined as vLLM joins them
    raise InputError(f"{where} has a message whose content is not text: give a text, or a list of parts of type text")


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


def must_fit(ids: Sequence[int], context: int | None, what: str) -> None:
    """Refuse a prompt that is empty or leaves no room to answer; `what` names it in the sentence."""
    if not ids:
        raise InputError(f"{what} has no tokens: give at least one")
    if context is not None and len(ids) >= context:
        raise InputError(f"{what} has {len(ids)} tokens and the model's context is {context}: shorten the prompt")


def must_be_messages(messages: Any, where: str) -> None:
    """Refuse what is no chat; `where` names it in the sentence."""
    good = isinstance(messages, list) and messages
    if not good or not all(isinstance(m, dict) and isinstance(m.get("role"), str) and "content" in m for m in messages):
        raise InputError(
            f"{where} has messages that are not a list of objects with role and content: write them so, or give prompt"
        )
