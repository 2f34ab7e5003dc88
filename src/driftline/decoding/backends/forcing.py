"""Fixed responses scored by a server: log-probs of a prompt's own tokens.

Two ways are known: vLLM's `prompt_logprobs`, which names each token, and OpenAI's old `echo` with `logprobs`. Each is
tried on the first rollout; that every token has its own log-prob is checked on every one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from driftline.checkpoints.layouts import Checkpoint
from driftline.decoding.backends.abilities import COMPLETIONS
from driftline.decoding.backends.backend import Backend
from driftline.decoding.backends.connection import Connection, Refusal
from driftline.decoding.backends.endpoint import find_model, model_name
from driftline.errors import InputError
from driftline.outputs.rollouts import Rollout
from driftline.progress import Advance

_LEAST = -9999.0  # what servers write for minus infinity, which JSON lacks
_ROUNDED_UP = 0.01  # above 0, of a probability of 1 in half precision
_WAYS: tuple[dict[str, Any], ...] = (
    {"prompt_logprobs": 0, "max_tokens": 1},
    {"echo": True, "logprobs": 0, "max_tokens": 0},
    {"echo": True, "logprobs": 1, "max_tokens": 0},
    {"echo": True, "logprobs": 1, "max_tokens": 1},
)


@dataclass(frozen=True)
class ServedScore:
    """A server as what scores rollouts by each checkpoint of a run."""

    backend: Backend

    def __call__(self, step: int, checkpoint: Checkpoint, rollouts: Sequence[Rollout], advance: Advance) -> np.ndarray:
        """Log-probs in nats, float32 [tokens], rollout after rollout.

        Raises:
            InputError: the server has no such model, or does not give the log-probs of prompts, one for each token.
        """
        connection = Connection(self.backend)
        try:
            model = model_name(self.backend, step)
            find_model(connection, model)
            way = _way(connection, model, rollouts[0])
            bodies = ((COMPLETIONS, _body(model, rollout, way)) for rollout in rollouts)
            read: list[np.ndarray] = []
            for answers in connection.in_order(bodies, _values):
                for found in answers:
                    rollout = rollouts[len(read)]
                    if found is None:
                        raise InputError(
                            f"{connection.shown} gave no log-prob for each token of row {len(read)}: look whether "
                            f"the model {model!r} has the run's tokenizer, or leave --backend out"
                        )
                    read.append(found[len(rollout.prompt_ids) :])
                    advance(rollout.length)
            return np.concatenate(read)
        finally:
            connection.close()


def _body(model: str, rollout: Rollout, way: dict[str, Any]) -> dict[str, Any]:
    """A request for one rollout: at temperature 1, where servers have it change log-probs."""
    ids = [*rollout.prompt_ids, *rollout.response_ids]
    return {"model": model, "prompt": ids, "temperature": 1.0, "top_p": 1.0, **way}


def _way(connection: Connection, model: str, rollout: Rollout) -> dict[str, Any]:
    """What has the server tell the log-probs of a prompt."""
    refused: Refusal | None = None
    for way in _WAYS:
        try:
            body = _body(model, rollout, way)
            answer = connection.post(COMPLETIONS, body)
        except Refusal as refusal:
            if refusal.status in (0, 401, 403, 404):
                raise
            refused = refusal
            continue
        if _values(answer, body) is not None:
            return way
    raise InputError(
        f"{connection.shown} does not tell log-probs of a prompt's tokens, by prompt_logprobs or by echo: serve the "
        "checkpoints with vLLM or driftline serve, or leave --backend out"
    ) from refused


def _values(answer: dict[str, Any], body: dict[str, Any]) -> np.ndarray | None:
    """Log-probs of the tokens of a body, float32, the first of which has none; None where not each has its own."""
    ids = body["prompt"]
    named = answer.get("prompt_logprobs")
    try:
        if named:
            values = [named[place][str(ids[place])]["logprob"] for place in range(1, len(ids))]
            return _array(values) if len(named) == len(ids) else None
        told = answer["logprobs"]["token_logprobs"]
        beyond = len(told) - len(ids)  # the token that had to be drawn
        usage = answer["usage"]["prompt_tokens"]
        if usage != len(ids) or beyond not in (0, 1) or told[0] is not None:
            return None
        return _array(told[1 : len(ids)])
    except (AttributeError, KeyError, IndexError, OverflowError, TypeError, ValueError):
        return None


def _array(logprobs: Sequence[float]) -> np.ndarray:
    return np.array([math.nan, *map(_value, logprobs)], np.float32)


def _value(logprob: float) -> float:
    """
    Raises:
        TypeError, ValueError: it is no logarithm of a probability.
    """
    if not logprob <= _ROUNDED_UP:
        raise ValueError(f"{logprob} is the logarithm of no probability")
    return -math.inf if logprob <= _LEAST else float(logprob)
