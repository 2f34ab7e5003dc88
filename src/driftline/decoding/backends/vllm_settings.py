"""What vLLM is told, as plain values: of an engine, and of one request."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from typing import Any

from driftline.decoding.settings import GenerationSettings
from driftline.errors import InputError

OPTIONS = "DRIFTLINE_VLLM_ARGS"
_OPTIONAL = (  # where an engine runs and what memory it takes: what it computes is not theirs to change
    "tensor_parallel_size",
    "distributed_executor_backend",
    "disable_custom_all_reduce",
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
    "cpu_offload_gb",
    "max_num_batched_tokens",
    "block_size",
    "enforce_eager",
)
_COLDEST = 0.01  # vLLM samples at this temperature where less is asked for, but for 0
_CPU_CACHE = 4 << 30  # bytes, at most
_SCORED_TOGETHER = 2048  # tokens of which all logits are held at once


def engine_options() -> dict[str, Any]:
    """What the user sets of the engine, from the environment.

    Raises:
        InputError: it is no JSON object, or holds what driftline decides itself.
    """
    text = os.environ.get(OPTIONS, "")
    if not text.strip():
        return {}
    try:
        given = json.loads(text)
    except ValueError as error:
        raise InputError(
            f'{OPTIONS} is not JSON ({error}): write an object such as {{"tensor_parallel_size": 2}}'
        ) from error
    if not isinstance(given, dict):
        raise InputError(f'{OPTIONS} is no JSON object: write one such as {{"tensor_parallel_size": 2}}')
    for name in given:
        if name not in _OPTIONAL:
            raise InputError(f"{OPTIONS} has {name!r}, which cannot be set there: choose {', '.join(_OPTIONAL)}")
    return given


def engine_arguments(*, dtype: str, at_once: int | None, scoring: bool, on_cpu: bool) -> dict[str, Any]:
    """The arguments of `vllm.LLM` but for the model.

    Nothing that the checkpoint's own generation settings say changes the distribution; the tokenizer is driftline's.

    Args:
        dtype: to run it in, by name: vLLM's `auto` halves float32.
        at_once: sequences decoded together; None leaves it to vLLM.
        scoring: the engine is to tell the log-probs of prompts.
        on_cpu: there is no accelerator: compiling costs more than it gives, and memory is shared with the system.
    """
    found: dict[str, Any] = {
        "dtype": dtype,
        "max_model_len": -1,  # the model's context, or as much of it as the cache holds
        "generation_config": "vllm",
        "skip_tokenizer_init": True,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "worker_extension_cls": "driftline.decoding.backends.vllm_worker.SwappingWorker",
    }
    if at_once is not None:
        found["max_num_seqs"] = at_once
    if scoring:
        found["max_num_batched_tokens"] = max(_SCORED_TOGETHER, at_once or 0)
    if on_cpu:
        found["enforce_eager"] = True
        if not scoring:
            found["enable_chunked_prefill"] = False  # of samples that have a seed, vLLM's CPU sampler cannot take part
        if not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
            memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            found["kv_cache_memory_bytes"] = min(_CPU_CACHE, memory // 4)
    return found | engine_options()


def sampling_arguments(
    settings: GenerationSettings, *, seed: int, length: int, ends: Collection[int], alpha: float | None
) -> dict[str, Any]:
    """The arguments of `vllm.SamplingParams` of one completion.

    Args:
        length: the most tokens that it may have.
        ends: tokens that end it.
        alpha: of a pair; None for one model.
    """
    return {
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "top_k": settings.top_k,  # 0 keeps all, there as here
        "seed": seed,
        "max_tokens": length,
        "ignore_eos": True,  # what ends a completion is in `stop_token_ids`, and nothing else
        "stop_token_ids": sorted(ends),
        "detokenize": False,
        **({} if alpha is None else {"extra_args": {"alpha": alpha}}),
    }


def scoring_arguments(last: int) -> dict[str, Any]:
    """The same for reading a sequence: the log-prob of each of its tokens, and of one that would follow."""
    return {
        "temperature": 0.0,
        "max_tokens": 1,
        "prompt_logprobs": 0,
        "logprobs": 1,  # as many as `logprob_token_ids`
        "logprob_token_ids": [last],
        "detokenize": False,
        "ignore_eos": True,
    }


def must_be_warm(temperature: float) -> None:
    """Refuse a temperature that vLLM would replace by another without a word."""
    if 0 < temperature < _COLDEST:
        raise InputError(
            f"--temperature is {temperature}: vLLM samples at {_COLDEST} or above; give that, or 0 (greedy)"
        )
