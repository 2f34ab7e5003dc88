"""What vLLM is told of an engine and of a request."""

from __future__ import annotations

import pytest

from driftline.decoding.backends.vllm_settings import (
    OPTIONS,
    engine_arguments,
    engine_options,
    must_be_warm,
    sampling_arguments,
)
from driftline.decoding.settings import GenerationSettings
from driftline.errors import InputError


def sampling(alpha: float | None = None, **changes):
    settings = GenerationSettings(late="m", **changes)
    return sampling_arguments(settings, seed=7, length=5, ends={9, 2}, alpha=alpha)


def test_a_request_says_all_that_its_samples_depend_on() -> None:
    assert sampling(temperature=0.7, top_p=0.9, top_k=0) == {
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 0,
        "seed": 7,
        "max_tokens": 5,
        "ignore_eos": True,
        "stop_token_ids": [2, 9],
        "detokenize": False,
    }
    assert sampling(top_k=20)["top_k"] == 20


def test_alpha_is_of_a_pair_alone() -> None:
    assert sampling(alpha=1.0)["extra_args"] == {"alpha": 1.0}
    assert "extra_args" not in sampling()


@pytest.mark.parametrize("temperature", [0.0, 0.01, 0.6, 1.0])
def test_temperatures_that_vllm_samples_at(temperature) -> None:
    must_be_warm(temperature)


@pytest.mark.parametrize("temperature", [1e-7, 0.009])
def test_a_temperature_that_vllm_would_change_is_refused(temperature) -> None:
    with pytest.raises(InputError, match=r"vLLM samples at 0\.01 or above; give that, or 0"):
        must_be_warm(temperature)


def arguments(**changes):
    return engine_arguments(**({"dtype": "float32", "at_once": None, "scoring": False, "on_cpu": False} | changes))


def test_an_engine_takes_no_settings_from_the_checkpoint(monkeypatch) -> None:
    monkeypatch.delenv(OPTIONS, raising=False)
    found = arguments()
    assert found["generation_config"] == "vllm"
    assert found["dtype"] == "float32"
    assert found["enable_prefix_caching"] is True
    assert "max_num_seqs" not in found
    assert "enforce_eager" not in found
    assert arguments(at_once=8)["max_num_seqs"] == 8


def test_a_processor_samples_whole_prompts_as_vllm_cannot_take_back_a_seed_there(monkeypatch) -> None:
    monkeypatch.delenv(OPTIONS, raising=False)
    assert arguments(on_cpu=True)["enable_chunked_prefill"] is False
    assert "enable_chunked_prefill" not in arguments(on_cpu=True, scoring=True)
    assert "enable_chunked_prefill" not in arguments(on_cpu=False)


def test_what_is_scored_together_is_bounded(monkeypatch) -> None:
    monkeypatch.delenv(OPTIONS, raising=False)
    assert arguments(scoring=True)["max_num_batched_tokens"] == 2048
    assert arguments(scoring=True, at_once=4096)["max_num_batched_tokens"] == 4096


def test_a_processor_leaves_memory_to_others_unless_it_is_told(monkeypatch) -> None:
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    assert 0 < arguments(on_cpu=True)["kv_cache_memory_bytes"] <= 4 << 30
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "2")
    assert "kv_cache_memory_bytes" not in arguments(on_cpu=True)


def test_the_users_options_come_last(monkeypatch) -> None:
    monkeypatch.setenv(OPTIONS, '{"tensor_parallel_size": 2, "enforce_eager": false}')
    found = arguments(on_cpu=True)
    assert (found["tensor_parallel_size"], found["enforce_eager"]) == (2, False)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not JSON"),
        ("[1]", "is no JSON object"),
        ('{"quantization": "fp8"}', "has 'quantization', which cannot be set there: choose tensor_parallel_size"),
        ('{"seed": 3}', "has 'seed'"),
    ],
)
def test_options_that_cannot_be_had(monkeypatch, text, sentence) -> None:
    monkeypatch.setenv(OPTIONS, text)
    with pytest.raises(InputError, match=sentence):
        engine_options()
