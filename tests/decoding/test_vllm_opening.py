"""The vllm backend where vLLM is not, and what of it needs no engine."""

from __future__ import annotations

import importlib.util
import json

import pytest
import tiny_models

from driftline.decoding.backends.backend import Backend
from driftline.decoding.backends.opening import open_decoder, scorer
from driftline.decoding.backends.vllm_engine import Weights, _cause
from driftline.decoding.sampler import end_ids
from driftline.decoding.settings import GenerationSettings
from driftline.decoding.vllm.folders import running_dtype, saved_dtype
from driftline.errors import InputError
from driftline.models import declared_ends, load_model, load_tokenizer

_FOUND = importlib.util.find_spec("vllm")
needs_no_vllm = pytest.mark.skipif(getattr(_FOUND, "origin", None) is not None, reason="vLLM is installed here")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.save(tmp_path_factory.mktemp("model") / "late", tiny_models.pair()[1])


@needs_no_vllm
def test_without_vllm_one_sentence_says_how_to_have_it(folder) -> None:
    settings = GenerationSettings(late=str(folder), backend=Backend("vllm"))
    with pytest.raises(InputError, match=r"pip install 'driftline\[vllm\]'"), open_decoder(settings):
        pass
    with pytest.raises(InputError, match=r"pip install 'driftline\[vllm\]'"):
        scorer(Backend("vllm"), "auto")


def test_half_a_pair_is_refused_before_anything_else(folder) -> None:
    settings = GenerationSettings(late=str(folder), alpha=1.5, backend=Backend("vllm"))
    with pytest.raises(InputError, match="--alpha needs --early"), open_decoder(settings):
        pass


@pytest.mark.parametrize("ends", [None, 1, [1, 7]])
@pytest.mark.parametrize("apart", [True, False])
def test_end_tokens_are_those_of_the_loaded_model(tmp_path, ends, apart) -> None:
    model = tiny_models.pair(num_hidden_layers=1, eos_token_id=ends)[1]
    saved = tiny_models.save(tmp_path / "m", model)
    if not apart:
        (saved / "generation_config.json").unlink()
    loaded, tokenizer = load_model(saved), load_tokenizer(saved)
    assert declared_ends(saved) | {tokenizer.eos_token_id} == end_ids(loaded, tokenizer)
    assert declared_ends(saved) == set([] if ends is None else ends if isinstance(ends, list) else [ends])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("said", ["dtype", "torch_dtype", None])
def test_a_model_runs_as_saved(tmp_path, dtype, said) -> None:
    import torch

    saved = tiny_models.save(tmp_path / "m", tiny_models.pair(num_hidden_layers=1)[1].to(getattr(torch, dtype)))
    config = json.loads((saved / "config.json").read_text())
    del config["dtype"]
    (saved / "config.json").write_text(json.dumps(config | ({} if said is None else {said: dtype})))
    assert saved_dtype(saved, saved) == dtype
    assert str(load_model(saved).dtype) == f"torch.{dtype}"


def test_two_models_of_different_dtypes_run_in_the_one_that_rounds_neither(tmp_path, folder) -> None:
    import torch

    half = tiny_models.save(tmp_path / "half", tiny_models.pair(num_hidden_layers=1)[0].to(torch.bfloat16))
    assert running_dtype("auto", [(half, half)]) == "bfloat16"
    assert running_dtype("auto", [(half, half), (half, half)]) == "bfloat16"
    for two in ([(half, half), (folder, folder)], [(folder, folder), (half, half)]):
        assert running_dtype("auto", two) == "float32"
        assert running_dtype("float16", two) == "float16"


def test_the_same_weights_are_told_from_others_under_their_name(folder, tmp_path) -> None:
    import shutil

    copy = shutil.copytree(folder, tmp_path / "copy")
    before = Weights(str(copy)).state()
    assert Weights(str(copy)).state() == before
    assert Weights(str(copy), scoring=True).state() != before
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes())
    assert Weights(str(copy)).state() != before


@pytest.mark.parametrize(
    ("written", "cause"),
    [
        (
            "(EngineCore pid=9) ERROR 11-26 11:24:16 [core.py:1512] Traceback (most recent call last):\n"
            "(Worker pid=8) ERROR 11-26 11:24:16 [w.py:1] ValueError: No available memory for the cache blocks.\n"
            "(EngineCore pid=9) ERROR 11-26 11:24:16 [core.py:1512] RuntimeError: Engine core initialization failed.",
            "No available memory for the cache blocks",
        ),
        ("torch.OutOfMemoryError: CUDA out of memory", "CUDA out of memory"),
        ("", "Engine core initialization failed"),
    ],
)
def test_the_cause_is_what_an_engines_process_wrote(tmp_path, written, cause) -> None:
    with (tmp_path / "said").open("w+") as said:
        said.write(written)
        assert _cause(said, RuntimeError("Engine core initialization failed. See root cause above.")).startswith(cause)


def test_of_a_request_that_vllm_refuses_the_value_error_is_told() -> None:
    error = ValueError(
        "1 validation error for ModelConfig\n  Value error, no such model. [type=value_error, input=1]\n"
    )
    assert _cause(None, error) == "no such model"
