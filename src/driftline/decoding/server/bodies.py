"""What a request may ask for, and what is made of it: rows to decode. What is wrong gets a sentence.

Bodies are parsed by pydantic's own JSON reader, which bounds depth, digits and surrogates. A field that is not known
here is refused where it could change the answer, and passed over where it cannot.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from driftline.decoding.distribution import FARTHEST, SamplingParams
from driftline.decoding.sampler import Sampler, row_seed
from driftline.decoding.speculative import OpenCompletion
from driftline.errors import InputError
from driftline.prompts import Prompt, encode, text_of

try:
    from pydantic import BaseModel, ConfigDict, Field, ValidationError
except ImportError as missing:
    raise InputError(f"serving needs {missing.name}: pip install 'driftline[serve]'") from missing

_MOST_SAMPLES = 128
_MOST_ROWS = 1024  # prompts times samples
_MOST_VALUES = 2**21  # of a body: each takes up to 400 bytes before it is known whether it is wanted
_MOST_STOPS, _LONGEST_STOP = 16, 256
_MOST_LIKELIEST = 20
_WITHOUT_CONTEXT = 4096  # new tokens of a chat that names no limit, where the model names no context
_COLDEST = 1e-4  # above 0; below, logits leave the range of float32

_HARMLESS = frozenset(
    ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "request_id", "priority")
)
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
    "repetition_penalty": (None, 1),
    "length_penalty": (None, 1),
    "response_format": (None, {"type": "text"}),
    "tool_choice": (None, "none", "auto"),
    "parallel_tool_calls": (None, True, False),
    "skip_special_tokens": (None, True),
    "spaces_between_special_tokens": (None, True),
    "add_special_tokens": (None, True),
    "add_generation_prompt": (None, True),
    "modalities": (None, ["text"]),
    "prompt_logprobs": (None,),
}
"""Fields that change nothing at these values; any other field does not where it is empty, 0 or false."""


_T = TypeVar("_T")
_Several = Annotated[
    list[_T], Field(fail_fast=True)
]  # the first that is wrong is enough: an error takes a hundred times its item
_Prompts = Annotated[list[_T], Field(fail_fast=True, max_length=_MOST_ROWS)]

_SHAPES: dict[int | str, str] = {
    "prompt": "a text, a list of texts, a list of token ids, or a list of such lists",
    "stop": "a text, or a list of texts",
}


class StreamOptions(BaseModel):
    """How a stream is sent."""

    include_usage: bool | None = None


class _Body(BaseModel):
    """What both kinds of request may ask for."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    model: str
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    n: Annotated[int, Field(ge=1, le=_MOST_SAMPLES)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | _Several[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = None
    alpha: Annotated[float, Field(ge=-FARTHEST, le=FARTHEST)] | None = None
    vllm_xargs: dict[str, Any] | None = None


class CompletionBody(_Body):
    """A request for `/v1/completions`."""

    prompt: str | _Prompts[str] | _Several[int] | _Prompts[_Several[int]]
    logprobs: Annotated[int, Field(ge=0, le=_MOST_LIKELIEST)] | None = None
    echo: bool | None = None


class ChatBody(_Body):
    """A request for `/v1/chat/completions`."""

    messages: _Several[dict[str, Any]]
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=_MOST_LIKELIEST)] | None = None


@dataclass(frozen=True)
class Wanted:
    """A request as rows: for each prompt its samples, in order."""

    prompts: list[Prompt]
    samples: int  # of each prompt
    rows: list[OpenCompletion]
    stop: tuple[str, ...]
    likeliest: int | None  # log-probs: of so many tokens beside each; None: none
    echo: bool
    stream: bool
    include_usage: bool
    token_ids: bool

    def prompt_of(self, place: int) -> Prompt:
        return self.prompts[place // self.samples]


_Kind = TypeVar("_Kind", bound=_Body)


def parsed(kind: type[_Kind], body: bytes) -> _Kind:
    """A body as a request.

    Raises:
        InputError: it is no JSON, or not such a request; names the field.
    """
    if sum(map(body.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        raise InputError(f"the body holds more than {_MOST_VALUES:,} values: ask for less at once")
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        if any(one["type"] == "too_long" for one in found):
            raise InputError(f"there are more than {_MOST_ROWS} prompts: ask for fewer at once") from None
        first = found[0]
        if len(first["loc"]) > 1 and first["loc"][0] in _SHAPES:  # each form it has, or not, has an error of its own
            raise InputError(f"{first['loc'][0]} is of another form: give {_SHAPES[first['loc'][0]]}") from None
        where = ".".join(str(part)[:40] for part in first["loc"]) or "the body"
        raise InputError(f"{where}: {first['msg'][:300]}") from None


def completion_rows(body: CompletionBody, sampler: Sampler, budget: int) -> Wanted:
    """The rows of a completions request; `budget` is the most tokens that may be held at once.

    Raises:
        InputError: something asked for is not possible; says what.
    """
    _must_be_known(body)
    if body.max_tokens == 0 and not body.echo:
        raise InputError("max_tokens is 0: ask for at least 1 token, or for the prompt's log-probs by echo")
    asked = _several(body.prompt)
    if len(asked) * (body.n or 1) > _MOST_ROWS:
        raise InputError(
            f"{len(asked)} prompts times n = {body.n or 1} are more than {_MOST_ROWS}: ask for fewer at once"
        )
    prompts = [
        Prompt(_text(sampler, item), item)
        if isinstance(item, list)
        else encode({"prompt": item}, sampler.tokenizer, "the request", context=sampler.context)
        for item in asked
    ]
    most = 16 if body.max_tokens is None else body.max_tokens
    return _wanted(body, sampler, prompts, most, body.logprobs, echo=bool(body.echo), budget=budget)


def chat_rows(body: ChatBody, sampler: Sampler, budget: int) -> Wanted:
    """The same of a chat."""
    _must_be_known(body)
    if body.max_tokens == 0:
        raise InputError("max_tokens is 0: ask for at least 1 token")
    if body.top_logprobs is not None and not body.logprobs:
        raise InputError("top_logprobs needs logprobs: set it to true")
    prompt = encode({"messages": body.messages}, sampler.tokenizer, "the request", context=sampler.context)
    most = body.max_completion_tokens or body.max_tokens
    if most is None:  # to the end of the context, or of what may be held
        most = max(1, min(sampler.context or _WITHOUT_CONTEXT, budget) - len(prompt.ids))
    likeliest = (body.top_logprobs or 0) if body.logprobs else None
    return _wanted(body, sampler, [prompt], most, likeliest, echo=False, budget=budget)


def _wanted(
    body: _Body,
    sampler: Sampler,
    prompts: list[Prompt],
    most: int,
    likeliest: int | None,
    *,
    echo: bool,
    budget: int,
) -> Wanted:
    if body.temperature is not None and 0 < body.temperature < _COLDEST:
        raise InputError(f"temperature is {body.temperature}: give 0 (greedy), or at least {_COLDEST}")
    if body.stream_options is not None and not body.stream:
        raise InputError("stream_options needs stream: set it to true, or leave them out")
    stop, alpha, samples = _stops(body), _alpha(body, sampler), body.n or 1
    for prompt in prompts:
        _must_be_tokens(sampler, prompt.ids, most)
    limits = [min(most, (sampler.context or 2**62) - len(prompt.ids)) for prompt in prompts]
    read = samples * sum(len(prompt.ids) for prompt in prompts)
    longest = max(len(prompt.ids) + limit for prompt, limit in zip(prompts, limits, strict=True))
    if max(read, longest) > budget:
        what = f"the prompts times n are {read}" if read > budget else f"a prompt and its new tokens are {longest}"
        raise InputError(f"{what} tokens and this server holds {budget} at once: ask for fewer")
    params = SamplingParams(
        1.0 if body.temperature is None else body.temperature,
        1.0 if body.top_p is None else body.top_p,
        max(body.top_k or 0, 0),
    )
    seed = secrets.randbits(62) if body.seed is None else body.seed
    rows = [
        OpenCompletion(
            prompt.ids,
            row_seed(seed, index, sample),
            limits[index],
            params,
            alpha,
            likeliest,
            score_prompt=echo and likeliest is not None,
        )
        for index, prompt in enumerate(prompts)
        for sample in range(samples)
    ]
    options = body.stream_options or StreamOptions()
    return Wanted(
        prompts,
        samples,
        rows,
        stop,
        likeliest,
        echo,
        bool(body.stream),
        bool(options.include_usage),
        bool(body.return_token_ids),
    )


def _must_be_known(body: _Body) -> None:
    for field, value in (body.model_extra or {}).items():
        neutral = _NEUTRAL.get(field)
        if field in _HARMLESS or (value in neutral if neutral else not value):
            continue
        raise InputError(f"{field[:40]} is not supported: leave it out")


def _stops(body: _Body) -> tuple[str, ...]:
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    if not all(stop):
        raise InputError("stop holds an empty string: give at least one character")
    if len(stop) > _MOST_STOPS or any(len(text) > _LONGEST_STOP for text in stop):
        raise InputError(
            f"stop may hold {_MOST_STOPS} strings of {_LONGEST_STOP} characters: give fewer or shorter ones"
        )
    return stop


def _alpha(body: _Body, sampler: Sampler) -> float:
    """Of this request; that of the server where it names none."""
    more = dict(body.vllm_xargs or {})
    value = more.pop("alpha", None)
    if more:
        raise InputError(f"vllm_xargs holds {next(iter(more))[:40]!r}, which is not known here: leave it out")
    if value is not None and (
        isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= FARTHEST
    ):
        raise InputError(f"vllm_xargs has an alpha that is no number between {-FARTHEST:g} and {FARTHEST:g}: give one")
    if value is not None and body.alpha is not None and value != body.alpha:
        raise InputError("alpha and that of vllm_xargs differ: give one of them")
    asked = body.alpha if value is None else float(value)
    if asked is not None and sampler.early is None:
        raise InputError("alpha needs an early model, and this server has none: leave it out")
    return sampler.alpha if asked is None else asked


def _must_be_tokens(sampler: Sampler, ids: list[int], most: int) -> None:
    size = sampler.vocabulary
    if not all(0 <= token < size for token in ids):
        raise InputError(f"prompt has a token id outside 0 to {size - 1}: use this model's tokenizer")
    if most == 0 and ids and len(ids) == sampler.context:  # nothing is to follow
        return
    sampler.must_fit(ids, "the prompt")


def _text(sampler: Sampler, ids: list[int]) -> str:
    """Of a prompt that was given as token ids; empty where it holds others."""
    try:
        return text_of(sampler.tokenizer, ids)
    except InputError:
        return ""


def _several(prompt: str | list[str] | list[int] | list[list[int]]) -> list[Any]:
    """The prompts of a request, each a text or a list of token ids."""
    single = isinstance(prompt, str) or (prompt and isinstance(prompt[0], int))
    found = [prompt] if single else list(prompt)
    if not found:
        raise InputError("prompt is an empty list: give at least one prompt")
    return found


def tokens_of(prompts: Sequence[Prompt]) -> int:
    return sum(len(prompt.ids) for prompt in prompts)
