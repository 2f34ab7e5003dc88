"""What an OpenAI-compatible server takes, found out by small requests before any that counts.

Servers differ beyond OpenAI's own parameters. Some have defaults of their own that change what is sampled (a model's
recommended top-k, a penalty on repetition), so these are sent neutral wherever the server takes them. What a server
passes over in silence (alpha, top-k) is found by what it answers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from driftline.decoding.backends.connection import Connection, Refusal
from driftline.errors import InputError

COMPLETIONS, CHAT = "/completions", "/chat/completions"

_WIDE_SEED = 2**62 + 1
_NARROW = 2**31 - 1
_OPTIONAL: dict[str, tuple[Any, ...]] = {
    "seed": (_WIDE_SEED, 1),
    "return_token_ids": (True,),
    "top_k": (-1, 0),
    "min_p": (0.0,),
    "repetition_penalty": (1.0,),
}
"""What may be sent besides OpenAI's own, each with the values to try: neutral ones."""
_FAR = 64.0  # an alpha at which even neighbours of a run differ
_FLOOR = 1e-3  # nats: less than that is no difference
_MOST_TOKENS = 2**31  # of a vocabulary, or of an answer
_TEXT = 32  # tokens that are compared where a server tells no log-probs


@dataclass(frozen=True)
class Abilities:
    """What is sent to a path of a server.

    Attributes:
        optional: parameters beyond OpenAI's that the server takes, with their neutral values.
        ids: whether it tells the tokens of its answers.
        alpha: the names under which alpha is sent: `alpha`, `vllm_xargs`, or both.
    """

    optional: dict[str, Any]
    ids: bool
    alpha: tuple[str, ...] = ()

    def seed(self, seed: int) -> dict[str, int]:
        """A seed of 63 bits as the server takes it; nothing where it takes none."""
        if "seed" not in self.optional:
            return {}
        return {"seed": seed if self.optional["seed"] == _WIDE_SEED else seed & _NARROW}

    def alphas(self, alpha: float | None) -> dict[str, Any]:
        """Alpha as the server takes it."""
        if alpha is None:
            return {}
        return {name: alpha if name == "alpha" else {"alpha": alpha} for name in self.alpha}


def find(connection: Connection, path: str, given: dict[str, Any], alpha: float | None) -> Abilities:
    """What a server takes at a path.

    Args:
        given: model, and prompt or messages, of a request that it has to answer.
        alpha: that will be asked for; None asks for none.

    Raises:
        Refusal: it refuses even the plain request.
        InputError: it tells no lengths, or alpha makes no difference to it.
    """
    plain = {**given, "max_tokens": 1, "temperature": 0.0, "top_p": 1.0}
    optional = {name: values[0] for name, values in _OPTIONAL.items()}
    try:
        answer = connection.post(path, plain | optional)
    except Refusal as refusal:
        if refusal.status in (0, 401, 403, 404):
            raise
        connection.post(path, plain)
        optional = _each_alone(connection, path, plain)
        answer = connection.post(path, plain | optional)
    ids = is_ids(answer.get("token_ids"))
    if not ids and length_of(answer) is None:
        raise InputError(
            f"{connection.shown} tells neither the tokens nor the usage of an answer, so its length is not known: use "
            "another server"
        )
    if not ids:
        optional.pop("return_token_ids", None)
    names: tuple[str, ...] = ()
    if alpha is not None:
        names = _alpha_names(connection, path, plain)
        _must_heed_alpha(connection, path, plain, Abilities(optional, ids, names))
    return Abilities(optional, ids, names)


def _each_alone(connection: Connection, path: str, plain: dict[str, Any]) -> dict[str, Any]:
    """The optional parameters that a server takes, each by the first value that it does not refuse."""

    def taken(name: str) -> Iterator[Any]:
        for value in _OPTIONAL[name]:
            try:
                connection.post(path, {**plain, name: value})
            except Refusal as refusal:
                if not refusal.status:
                    raise
            else:
                yield value

    found = {name: next(taken(name), None) for name in _OPTIONAL}
    return {name: value for name, value in found.items() if value is not None}


def must_heed_top_k(connection: Connection, path: str, given: dict[str, Any], able: Abilities) -> None:
    """Refuse a server that does not keep to the k likeliest tokens: of the one likeliest there is one answer.

    Raises:
        InputError: it refuses top-k, or samples on as if there was none.
    """
    if "top_k" not in able.optional:
        raise InputError(f"{connection.shown} takes no top_k: leave --top-k out, or take another server")
    asked = {**given, "max_tokens": 8, **able.optional}
    greedy = _text(connection.post(path, {**asked, "temperature": 0.0}))
    likeliest = (connection.post(path, {**asked, "temperature": 2.0, "top_k": 1, **able.seed(s)}) for s in (1, 2, 3))
    if all(_text(answer) != greedy for answer in likeliest):
        raise InputError(
            f"{connection.shown} passes over top_k: leave --top-k out, or take another server (--temperature and "
            "--top-p are its own)"
        )


def _alpha_names(connection: Connection, path: str, plain: dict[str, Any]) -> tuple[str, ...]:
    for names in (("alpha", "vllm_xargs"), ("alpha",), ("vllm_xargs",)):
        try:
            connection.post(path, plain | Abilities({}, False, names).alphas(1.0))
        except Refusal as refusal:
            if not refusal.status:
                raise
            last = refusal
        else:
            return names
    raise InputError(f"{connection.shown} does not take alpha: {_SERVE}") from last


_SERVE = "serve both checkpoints with driftline serve --early A --late B, or leave --alpha out"


def _must_heed_alpha(connection: Connection, path: str, plain: dict[str, Any], able: Abilities) -> None:
    """Refuse a server whose answers at alpha 0 and far beyond differ no more than those at one alpha do."""
    told = {"logprobs": 5} if path == COMPLETIONS else {"logprobs": True, "top_logprobs": 5}
    kept = {name: value for name, value in able.optional.items() if name != "return_token_ids"}

    def answered(alpha: float, more: dict[str, Any]) -> dict[str, Any]:
        return connection.post(path, {**plain, **kept, **more, **able.alphas(alpha)})

    try:
        found = [_likeliest(answered(alpha, told)) for alpha in (1.0, 1.0, 0.0, _FAR, 1.0)]
    except Refusal as refusal:
        if not refusal.status:
            raise
        found = [{}]
    if all(found):
        same = [found[0], found[1], found[4]]
        noise = max(_apart(a, b) for a in same for b in same)
        heeded = _apart(found[2], found[3]) > 10 * noise + _FLOOR
    else:
        more = {"max_tokens": _TEXT}
        first, zero, far, second = (_text(answered(alpha, more)) for alpha in (1.0, 0.0, _FAR, 1.0))
        heeded = first == second and len({first, zero, far}) > 1
    if not heeded:
        raise InputError(f"{connection.shown} answers alike whatever alpha is: {_SERVE}")


def _likeliest(answer: dict[str, Any]) -> dict[str, float]:
    """Log-probs of the likeliest first tokens, as completions, chats, or llama.cpp tell them; empty where they do not."""
    told = answer.get("logprobs") or {}
    try:
        if told.get("top_logprobs"):
            return {str(token): float(value) for token, value in told["top_logprobs"][0].items()}
        return {str(one["token"]): float(one["logprob"]) for one in told["content"][0]["top_logprobs"]}
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError):
        return {}


def _apart(a: dict[str, float], b: dict[str, float]) -> float:
    """The largest difference of log-probs, over tokens that both tell."""
    return max((abs(a[token] - b[token]) for token in a.keys() & b.keys()), default=math.inf)


def _text(answer: dict[str, Any]) -> str:
    return str(text_of(answer)) + str(answer.get("token_ids") or "")


def text_of(answer: dict[str, Any]) -> str | None:
    """The text of a choice, of either path; empty where it is null, as a chat's may be; None where it is no text."""
    message = answer.get("message")
    text = message.get("content") if isinstance(message, dict) else answer.get("text")
    return "" if text is None else text if isinstance(text, str) else None


def length_of(answer: dict[str, Any]) -> int | None:
    """How many tokens an answer says that it has; None where it does not say."""
    usage = answer.get("usage")
    told = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return told if type(told) is int and 0 <= told < _MOST_TOKENS else None


def is_ids(value: Any) -> bool:
    """Whether a value is a list of tokens."""
    return isinstance(value, list) and bool(value) and all(type(t) is int and 0 <= t < _MOST_TOKENS for t in value)
