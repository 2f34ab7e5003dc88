"""The http backend: an OpenAI-compatible server (vLLM, SGLang, llama.cpp, TGI, driftline's own) as a decoder.

    with Endpoint(backend, alpha=1.5) as decoder:
        for responses in decoder.complete(jobs, settings): ...

Every sample is a request of its own with its own seed, so that what it becomes does not depend on those beside it
where the server honours seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from functools import cached_property
from typing import TYPE_CHECKING, Any

from driftline.decoding.backends import abilities
from driftline.decoding.backends.abilities import CHAT, COMPLETIONS, Abilities, is_ids, length_of, text_of
from driftline.decoding.backends.backend import Backend
from driftline.decoding.backends.connection import Connection, Refusal
from driftline.decoding.backends.decoder import Job, Response
from driftline.decoding.distribution import FARTHEST
from driftline.decoding.sampler import Sampler, row_seed
from driftline.decoding.settings import GenerationSettings
from driftline.errors import InputError
from driftline.prompts import Prompt, encode, must_be_messages, must_fit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Sources = Callable[[], AbstractContextManager[Sampler]]
"""The models that a server has, here, for what needs whole distributions."""

STEP = "{step}"
_LASTING = ("root", "parent", "max_model_len", "meta", "driftline")  # what stays as it is when a server starts again
_NO_LIMIT = 10**9  # positions: that many or more stand for none
_LONGEST_NAME = 80  # characters of what a server calls something, in a sentence
_ENDS = {
    **dict.fromkeys(("stop", "eos", "eos_token", "stop_sequence", "end_turn"), "stop"),
    **dict.fromkeys(("length", "max_tokens"), "length"),
}


class Endpoint:
    """A model of a server; what the server takes is found out before the first answer that counts."""

    def __init__(
        self,
        backend: Backend,
        *,
        alpha: float | None = None,
        step: int | None = None,
        sources: Sources | None = None,
        batch_size: int | None = None,
    ) -> None:
        """
        Args:
            alpha: to send with each request, to a server of two checkpoints; None: the server's own.
            step: what stands for `{step}` in the model's name.
            sources: the same models in transformers, for `with_logits`.
            batch_size: requests in flight.

        Raises:
            InputError: the address or the model's name is none, alpha is out of range, or the tokenizer does not load.
        """
        if alpha is not None and not abs(alpha) <= FARTHEST:
            raise InputError(f"--alpha is {alpha}: give a number between {-FARTHEST:g} and {FARTHEST:g}")
        self.alpha = alpha
        self.model = model_name(backend, step)
        self._alpha, self._sources, self._tokenizer_name = alpha, sources, backend.tokenizer
        self._tokenizer = _loaded(backend.tokenizer)
        self._able: dict[str, Abilities] = {}
        self._connection = Connection(backend, batch_size)

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up what is in flight."""
        self._connection.close()

    @property
    def acceptance(self) -> None:
        return None

    @cached_property
    def chats(self) -> bool:
        if self._tokenizer is not None:
            return self._tokenizer.chat_template is not None
        try:
            self._abilities(CHAT, {"messages": [{"role": "user", "content": "1"}]})
        except Refusal as refusal:
            if refusal.status in (0, 401, 403):
                raise
            return False
        return True

    @cached_property
    def context(self) -> int | None:
        """Positions: of the model that the tokenizer belongs to, and of the server, the fewer; None: not told."""
        told = self._served.get("max_model_len")
        known = [told if type(told) is int and 0 < told < _NO_LIMIT else None]
        if self._tokenizer is not None and self._tokenizer_name is not None:
            known.append(_context(self._tokenizer_name, self._tokenizer))
        return min((size for size in known if isinstance(size, int)), default=None)

    def prompt(self, row: Mapping[str, Any], where: str) -> Prompt:
        prompt = self._read(row, where)
        path, given = _asked(prompt)
        if path not in self._able:
            self._abilities(path, given)
        return prompt

    def _read(self, row: Mapping[str, Any], where: str) -> Prompt:
        if self._tokenizer is not None:
            prompt = encode(row, self._tokenizer, where)
            must_fit(prompt.ids, self.context, f"{where},")
            return prompt
        text, messages = row.get("prompt"), row.get("messages")
        if messages is not None:
            must_be_messages(messages, where)
            return Prompt("", [], messages)
        if not isinstance(text, str) or not text:
            raise InputError(f"{where} has neither prompt (a text) nor messages: add one")
        return Prompt(text, [])

    def complete(self, jobs: Sequence[Job], settings: GenerationSettings) -> Iterator[list[Response]]:
        if settings.top_k:
            for path, given in dict(_asked(job.prompt) for job in jobs).items():
                able = self._abilities(path, given)
                abilities.must_heed_top_k(self._connection, path, self._given(given), able)
        yield from self._connection.in_order((self._request(job, settings) for job in jobs), self._response)

    def late_alone(self) -> Endpoint:
        """The same server at alpha 1; it ends with this one."""
        late = copy(self)
        late.alpha, late._alpha = None, 1.0
        late._sources = None if self._sources is None else self._late_sources
        return late

    def with_logits(self) -> AbstractContextManager[Sampler]:
        if self._sources is None:
            raise InputError(
                f"{self._connection.shown} gives samples, not whole distributions: leave out what compares those, or run "
                "the models here"
            )
        return self._sources()

    @contextmanager
    def _late_sources(self) -> Iterator[Sampler]:
        with self.with_logits() as both:
            yield Sampler(both.late, both.tokenizer)

    @cached_property
    def _served(self) -> dict[str, Any]:
        """What the server tells of the model.

        Raises:
            InputError: it lists others only.
        """
        return find_model(self._connection, self.model)

    @property
    def _mark(self) -> str | None:
        """What `driftline serve` marks every answer with; others' marks tell of their software, not of the model."""
        own = self._served.get("driftline")
        return own.get("fingerprint") if isinstance(own, dict) else None

    def _given(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"model": self.model, **given}

    def _abilities(self, path: str, given: dict[str, Any]) -> Abilities:
        """What the server takes at a path; `given` is a prompt or messages to find it out by."""
        if path not in self._able:
            assert self._served is not None  # a model that it lacks is the first thing to say
            self._able[path] = abilities.find(self._connection, path, self._given(given), self._alpha)
        return self._able[path]

    def _request(self, job: Job, settings: GenerationSettings) -> tuple[str, dict[str, Any]]:
        path, given = _asked(job.prompt)
        able = self._abilities(path, given)
        room = settings.max_new_tokens
        if job.prompt.ids and self.context is not None:
            room = min(room, self.context - len(job.prompt.ids))
        return path, {
            **self._given(given),
            **able.optional,
            **able.seed(row_seed(settings.seed, job.index, job.sample)),
            **able.alphas(self._alpha),
            **({"top_k": settings.top_k} if settings.top_k else {}),
            "max_tokens": room,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
        }

    def _response(self, answer: dict[str, Any], body: dict[str, Any]) -> Response:
        if self._mark is not None and answer.get("system_fingerprint") != self._mark:
            raise Refusal(
                f"{self._connection.shown} was started anew with another model, also called {self.model!r}: serve the former "
                "and make the same call again, or begin a new --out"
            )
        reason = answer.get("finish_reason")
        ended = _ENDS.get(reason) if isinstance(reason, str) else None
        if ended is None:
            raise Refusal(
                f"{self._connection.shown} ended an answer for the reason {_short(reason)}, which is neither "
                "its end nor its length: look what stopped it, and make the same call again"
            )
        text, ids = text_of(answer), answer.get("token_ids")
        if text is None:
            raise Refusal(f"{self._connection.shown} gave an answer whose text is no text: make the same call again")
        if isinstance(ids, list) and (not ids or is_ids(ids)):
            return Response(text, ids, len(ids), ended)
        tokens = length_of(answer)
        if tokens is None:
            raise Refusal(f"{self._connection.shown} left out how many tokens an answer has: make the same call again")
        return Response(text, None, tokens, ended)


def model_name(backend: Backend, step: int | None) -> str:
    """What the server calls the model, of a checkpoint of a run the one of its step.

    Raises:
        InputError: the name has a place for a step, and there is none, or the other way round.
    """
    name = str(backend.model)
    if (STEP in name) != (step is not None):
        if step is None:
            raise InputError(f"--model {name} has a place for a step, and one model is asked: name that")
        raise InputError(
            f"--model {name} is one model, and there is one for each step: write {STEP} where their names differ"
        )
    return name.replace(STEP, str(step))


def find_model(connection: Connection, model: str) -> dict[str, Any]:
    """What a server tells of a model; nothing where it lists none.

    Some answer to any name with the model that they have; so a name that is not in the list is refused.

    Raises:
        InputError: it lists others only, or cannot be reached.
    """
    try:
        listed = connection.get("/models")
    except Refusal as refusal:
        if refusal.status in (0, 401, 403):
            raise
        return {}
    rows = listed.get("data") if isinstance(listed, dict) else None
    rows = rows if isinstance(rows, list) else []
    found = {row["id"]: row for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)}
    if found and model not in found:
        few = ", ".join(name[:_LONGEST_NAME] for name in list(found)[:8]) + (", ..." if len(found) > 8 else "")
        raise InputError(f"{connection.shown} has no model {model!r}: choose {few} for --model")
    return found.get(model, {})


def served(backend: Backend, steps: Sequence[int | None] = (None,)) -> dict[str, Any]:
    """What a server tells of its model, or of that of each step, for a record: another of the same name is noticed.

    Nothing of other backends.

    Raises:
        InputError: it lists other models only, or cannot be reached.
    """
    if backend.name != "http":
        return {}
    connection = Connection(backend)
    try:
        found = {name: find_model(connection, name) for name in (model_name(backend, step) for step in steps)}
    finally:
        connection.close()
    return {"served": {model: _lasting(one) for model, one in found.items()}}


def _lasting(told: dict[str, Any]) -> dict[str, Any]:
    """What a record keeps of it: values, and objects of values, whatever else a server may put there."""
    return {key: told[key] for key in _LASTING if key in told and _is_flat(told[key])}


def _is_flat(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else [value]
    return not any(isinstance(one, (dict, list)) for one in inner)


def _short(value: Any) -> str:
    return repr(value[:_LONGEST_NAME]) if isinstance(value, str) else "null" if value is None else "of another form"


def _asked(prompt: Prompt) -> tuple[str, dict[str, Any]]:
    """The path and the part of a request that a prompt makes."""
    if prompt.messages is not None:
        return CHAT, {"messages": prompt.messages}
    return COMPLETIONS, {"prompt": prompt.ids or prompt.text}


def _loaded(tokenizer: str | None) -> PreTrainedTokenizerBase | None:
    from driftline.models import load_tokenizer

    return None if tokenizer is None else load_tokenizer(tokenizer)


def _context(source: str, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Positions that the model of a tokenizer takes: by its configuration, or as the tokenizer has it."""
    from driftline.models import limits_of

    try:
        known = limits_of(source).context
    except InputError:
        known = None
    if known is None and tokenizer.model_max_length < _NO_LIMIT:
        known = int(tokenizer.model_max_length)
    return known
