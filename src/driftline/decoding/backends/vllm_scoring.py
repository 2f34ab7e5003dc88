"""Log-probs of fixed responses by vLLM's engine: what `driftline logprobs --backend vllm` scores with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from driftline.checkpoints.layouts import Checkpoint
from driftline.decoding.backends.vllm_engine import Weights, engine_of
from driftline.decoding.backends.vllm_settings import scoring_arguments
from driftline.errors import InputError
from driftline.outputs.rollouts import Rollout
from driftline.progress import Advance


def token_logprobs(
    step: int, checkpoint: Checkpoint, rollouts: Sequence[Rollout], advance: Advance, *, dtype: str
) -> np.ndarray:
    """Log-prob, in nats, of every response token given all before it: float32 [tokens], rollout after rollout.

    The engine reads prompt and response as one prompt but for the last token, which is the one that is then to follow:
    so a row may be as long as the model's context.
    """
    engine = engine_of(Weights(checkpoint, dtype=dtype, scoring=True))
    longest = max(rollout.length for rollout in rollouts)
    if longest > engine.longest:
        raise InputError(
            f"the longest rollout has {longest} tokens and vLLM has room for {engine.longest}: give its cache more memory"
        )
    requests = [
        ((*rollout.prompt_ids, *rollout.response_ids[:-1]), scoring_arguments(rollout.response_ids[-1]))
        for rollout in rollouts
    ]
    waiting = iter(rollouts)
    values: list[float] = []
    for outputs in engine.run(requests):
        for output in outputs:
            rollout = next(waiting)
            told = [*output.prompt_logprobs[len(rollout.prompt_ids) :], output.outputs[0].logprobs[0]]
            values += [at[token].logprob for at, token in zip(told, rollout.response_ids, strict=True)]
            advance(rollout.length)
    return np.array(values, np.float32)
