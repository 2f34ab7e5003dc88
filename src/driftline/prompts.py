"""Prompts as token ids: text as it is, or messages through the model's chat template."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

from driftline.apart import Apart, Refused, TooMuch
from driftline.errors import InputError, first_line
from driftline.files.fingerprint import hashing
from driftline.files.json import json_line
from driftline.files.regular import lines_given

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


class Rows(list[dict[str, Any]]):
    """The rows of a JSONL file; `digest` is of its bytes, which cannot be had again where it is a pipe."""

    digest: str


_LINE, _FILE = 16 << 20, 4 << 30  # bytes: of a row, and of all


def read_rows(path: Path, *, longest: int = _FILE) -> Rows:
    """The rows of a JSONL file, each an object; blank lines are passed over.

    Args:
        path: a file, or a pipe.
        longest: bytes that it may have.

    Raises:
        InputError: it cannot be read, or a line is not a JSON object; names the line.
    """
    rows, hashed, number = Rows(), hashing(), 0
    try:
        for number, line in enumerate(lines_given(path, line=_LINE, whole=longest), 1):
            hashed.update(line)
            if text := line.decode().strip():
                rows.append(_row(text, f"{path}, line {number},"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}, line {number}, is not UTF-8 text: give a JSONL file") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give a JSONL file, one object a line") from error
    if not rows:
        raise InputError(f"{path} has no rows: give one JSON object per line")
    rows.digest = hashed.hexdigest()
    return rows


def _row(text: str, where: str) -> dict[str, Any]:
    try:
        row = json_line(text)
    except ValueError as error:
        raise InputError(f"{where} is not JSON ({error}): write one object a line") from error
    if not isinstance(row, dict):
        raise InputError(f"{where} is not a JSON object: write one a line")
    return row


def encode(
    row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, where: str, *, context: int | None = None
) -> Prompt:
    """The prompt of a row with `prompt` (text) or `messages` (a list of role and content); `where` names it in errors.

    Args:
        context: of the model: a text of more tokens is refused, and its tokens are not even brought here.

    Raises:
        InputError: it has neither, the tokenizer has no chat template, or refuses it, or takes too long over it.
    """
    text, messages = row.get("prompt"), row.get("messages")
    if messages is not None:
        if tokenizer.chat_template is None:
            raise InputError(f"{where} has messages, but the model has no chat template: give prompt instead")
        must_be_messages(messages, where)
        said = [_as_text(message, where) for message in messages]
        rendered = render(tokenizer, said, where)
        return Prompt(rendered, token_ids(tokenizer, rendered, where, special=False, most=context))
    if not isinstance(text, str) or not text:
        raise InputError(f"{where} has neither prompt (a text) nor messages: add one")
    begun = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
    return Prompt(text, token_ids(tokenizer, text, where, special=not begun, most=context))


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], where: str, **how: Any) -> str:
    """A chat as the model's template writes it, for the assistant to go on unless `how` says otherwise.

    The template is a program that came with the checkpoint: it runs apart, for five seconds of the processor at most.
    One that passed a bound over a short chat is not tried again.

    Raises:
        InputError: the messages are nested deeply, it refuses them, or passes a bound.
    """
    template, asked = tokenizer.chat_template, (list(messages), {"add_generation_prompt": True, **how})
    if _is_deep(asked):
        raise InputError(f"{where} has a chat that is nested more than {_DEEPEST} deep: mend the messages")
    long = len(str(asked)) > SHORT
    try:
        if tokenizer in _hopeless and _hopeless[tokenizer][0] == template:
            raise TooMuch(_hopeless[tokenizer][1])
        return _apart(tokenizer, _rendered, template, long=long)(*asked)
    except Refused as error:
        raise InputError(
            f"{where} does not fit the model's chat template ({error}): mend the messages, or give prompt"
        ) from error
    except TooMuch as error:
        if not long:  # a long chat may be the client's attack on those of others
            _hopeless[tokenizer] = template, str(error)
        raise InputError(
            f"{where} is not written by the model's chat template: it takes {error}; mend the template, or give prompt"
        ) from error


def token_ids(
    tokenizer: PreTrainedTokenizerBase, text: str, where: str, *, special: bool, most: int | None = None
) -> list[int]:
    """The tokens of a text, made apart and within bounds; `special`: with those that the tokenizer puts around a text.

    Raises:
        InputError: the tokenizer cannot, or passes a bound, or there are more than `most`.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where} has a text that the tokenizer refuses (half of a surrogate pair stands alone): mend the text"
        ) from error
    try:
        count, ids = _apart(tokenizer, _tokens, long=len(text) > SHORT)(text, special, most)
    except Refused as error:
        raise InputError(
            f"{where} has a text that the tokenizer refuses ({error}): mend the text, or the tokenizer"
        ) from error
    except TooMuch as error:
        raise InputError(f"{where} has a text over which the tokenizer takes {error}: give a shorter one") from error
    if ids is None:
        raise _too_long(where, count, most)
    return list(ids)


def text_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], *, special: bool = True) -> str:
    """The text of some tokens; `special`: with the tokens that are no text, such as an end.

    A decoder that holds a regular expression, or writes much for little, runs apart and within bounds.

    Raises:
        InputError: the tokenizer cannot, or passes a bound.
    """
    try:
        if _decodes_plainly(tokenizer):
            return str(tokenizer.decode(ids, skip_special_tokens=not special))
        return str(_apart(tokenizer, _text)(list(ids), special))
    except Exception as error:
        reason = f"it takes {error}" if isinstance(error, TooMuch) else first_line(error)
        raise InputError(
            f"the tokenizer cannot write out {len(ids)} tokens ({reason}): put that of this model beside it"
        ) from error


def make_ready(tokenizer: PreTrainedTokenizerBase) -> None:
    """Fork the processes that work for the tokenizer, before there are threads."""
    if not _decodes_plainly(tokenizer):
        _apart(tokenizer, _text).start()
    for long in (False, True):
        _apart(tokenizer, _tokens, long=long).start()
        if tokenizer.chat_template is not None:
            _apart(tokenizer, _rendered, tokenizer.chat_template, long=long).start()


_SECONDS = 5.0
_DEEPEST = 64  # of a chat: what is in the arguments of a tool is not nested further
_LENGTH = 16  # characters that a decoder may put in place of one
SHORT = 1 << 16  # characters of a text, or a chat, over which neither tokenizer nor template should take long
_workers: WeakKeyDictionary[PreTrainedTokenizerBase, dict[tuple[str, bool], tuple[Any, Apart]]] = WeakKeyDictionary()
_plainly: WeakKeyDictionary[PreTrainedTokenizerBase, bool] = WeakKeyDictionary()
_hopeless: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[Any, str]] = WeakKeyDictionary()


def _apart(
    tokenizer: PreTrainedTokenizerBase, work: Callable[..., Any], template: Any = None, *, long: bool = False
) -> Apart:
    """A process for each kind of work for a tokenizer, as long as it lives, and another once its template was changed.

    So a template that hangs holds up chats alone, and what is long only what is long.
    """
    found, kind = _workers.setdefault(tokenizer, {}), (work.__name__, long)
    if kind not in found or found[kind][0] != template:
        found[kind] = template, Apart(partial(work, ref(tokenizer)), seconds=_SECONDS)
    return found[kind][1]


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        nested = [each for each in level if isinstance(each, (dict, list, tuple))]
        if not nested:
            return False
        level = [below for each in nested for below in (each.values() if isinstance(each, dict) else each)]
    return True


def _rendered(of: ref[PreTrainedTokenizerBase], messages: list[dict[str, Any]], how: dict[str, Any]) -> Any:
    return _there(of).apply_chat_template(messages, tokenize=False, **how)


def _tokens(of: ref[PreTrainedTokenizerBase], text: str, special: bool, most: int | None) -> tuple[int, Any]:
    """How many tokens there are, and the tokens unless they are more than may be."""
    ids = _there(of)(text, add_special_tokens=special).input_ids
    return len(ids), ids if most is None or len(ids) <= most else None


def _text(of: ref[PreTrainedTokenizerBase], ids: list[int], special: bool) -> Any:
    return _there(of).decode(ids, skip_special_tokens=not special)


def _decodes_plainly(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether decoding takes time and memory in proportion to the tokens."""
    if tokenizer not in _plainly:
        decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
        _plainly[tokenizer] = decoder is None or _is_plain(json.loads(decoder.__getstate__()))
    return _plainly[tokenizer]


def _is_plain(decoder: Any) -> bool:
    match decoder:
        case {"type": "Sequence", "decoders": [*parts]}:
            return all(map(_is_plain, parts))
        case {"type": "Replace", "pattern": {"String": str(found)}, "content": str(put)}:
            return len(found) > 0 and len(put) <= _LENGTH
        case {"type": "WordPiece", "prefix": str(prefix)}:
            return len(prefix) <= _LENGTH
        case {"type": "Metaspace" | "BPEDecoder" | "ByteLevel" | "ByteFallback" | "Fuse" | "Strip" | "CTC"}:
            return True
    return False


def _there(of: ref[PreTrainedTokenizerBase]) -> PreTrainedTokenizerBase:
    tokenizer = of()
    if tokenizer is None:
        raise RuntimeError("the tokenizer has gone")
    return tokenizer


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


def must_fit(ids: Sequence[int], context: int | None, what: str, *, vocabulary: int | None = None) -> None:
    """Refuse a prompt that is empty, leaves no room to answer, or has a token that the model lacks.

    Args:
        vocabulary: of the model; its tokens' ids are below. what: names the prompt in the sentence.
    """
    if not ids:
        raise InputError(f"{what} has no tokens: give at least one")
    if vocabulary is not None and max(ids) >= vocabulary:
        raise InputError(
            f"{what} has token {max(ids)} and the model has {vocabulary}: put the tokenizer of this model beside it"
        )
    if context is not None and len(ids) >= context:
        raise _too_long(what, len(ids), context)


def _too_long(what: str, tokens: int, context: int | None) -> InputError:
    return InputError(f"{what} has {tokens} tokens and the model's context is {context}: shorten the prompt")


def must_be_messages(messages: Any, where: str) -> None:
    """Refuse what is no chat; `where` names it in the sentence."""
    good = isinstance(messages, list) and messages
    if not good or not all(isinstance(m, dict) and isinstance(m.get("role"), str) and "content" in m for m in messages):
        raise InputError(
            f"{where} has messages that are not a list of objects with role and content: write them so, or give prompt"
        )
