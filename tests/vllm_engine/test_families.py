"""Greedy tokens of two models in vLLM are those of the embedded path, whatever their family, heads and vocabularies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pairs import WORDS, prompts, saved_pair

from driftline.decoding.sources import load_sampler
from driftline.decoding.vllm.checks import pair_overrides

ALPHAS = (0.0, 1.0, 1.5, 3.0, -1.0)
NEW = 12
PADDED = {"early_vocab_size": 576, "late_vocab_size": 640, "late_tie_word_embeddings": True}


def engine(early: Path, late: Path, alpha: float, *, eager: bool):
    from vllm import LLM

    overrides, context = pair_overrides(early, late, alpha)
    return LLM(
        model=str(late),
        dtype="float32",
        enforce_eager=eager,
        max_model_len=min(context or 128, 128),
        max_num_seqs=64,
        generation_config="vllm",
        hf_overrides=overrides,
        logits_processors=["driftline.decoding.vllm.alpha:RequestAlpha"],
    )


def check(early: Path, late: Path, alpha: float, *, eager: bool = True) -> None:
    """All requests in one batch, rows of several alphas beside one another."""
    from vllm import SamplingParams

    asked = [(prompt, own) for prompt in prompts(24) for own in (None, *ALPHAS)]
    llm = engine(early, late, alpha, eager=eager)
    answers = llm.generate(
        [{"prompt_token_ids": prompt} for prompt, _ in asked],
        [
            SamplingParams(temperature=0, max_tokens=NEW, extra_args={} if own is None else {"alpha": own})
            for _, own in asked
        ],
        use_tqdm=False,
    )
    llm.llm_engine.engine_core.shutdown()
    found = {(tuple(prompt), own): answer.outputs[0] for (prompt, own), answer in zip(asked, answers, strict=True)}
    texts = {own: tuple(tuple(found[tuple(p), own].token_ids) for p in prompts(24)) for own in (None, *ALPHAS)}
    assert texts[None] == texts[alpha]
    assert len(set(texts.values())) == len(ALPHAS)  # each alpha says something else, so that equality means something
    for own in ALPHAS:
        sampler = load_sampler(late, early=early, alpha=own, dtype="float32")
        expected = sampler.sample(prompts(24), temperature=0, max_new_tokens=NEW, seeds=[0] * 24)
        assert list(texts[own]) == [tuple(completion.ids) for completion in expected]
        reasons = [found[tuple(p), own].finish_reason for p in prompts(24)]
        assert reasons == [completion.finish_reason for completion in expected]
        assert max(token for ids in texts[own] for token in ids) < WORDS


def test_qwen2_compiled_and_an_early_head_that_the_configuration_denies(tmp_path):
    early, late = saved_pair(tmp_path, "qwen2")
    config = json.loads((early / "config.json").read_text())
    (early / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    check(early, late, -1.0, eager=False)


def test_qwen3_padded_and_tied_otherwise(tmp_path):
    check(*saved_pair(tmp_path, "qwen3", **PADDED), 0.0)


def test_mixture_of_experts(tmp_path):
    check(*saved_pair(tmp_path, "qwen3_moe"), 3.0)


def test_llama_of_two_sizes_and_contexts(tmp_path):
    early, _ = saved_pair(tmp_path / "one", "llama", max_position_embeddings=64)
    sizes = {"hidden_size": 96, "head_dim": 64, "num_hidden_layers": 3}
    _, late = saved_pair(tmp_path / "other", "llama", seed=7, **sizes)
    check(early, late, 1.5)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"logits_processors": []}, "start vLLM with --logits-processors"),
        ({"pipeline_parallel_size": 2}, "pipeline"),
    ],
)
def test_an_engine_in_which_it_would_go_wrong_is_refused(changed, why):
    """What `driftline serve` sees to, said to who starts vLLM by hand."""
    from types import SimpleNamespace

    from driftline.decoding.vllm.alpha import PROCESSOR
    from driftline.decoding.vllm.pair import _refuse_unfit

    settings = {"logits_processors": [PROCESSOR], "pipeline_parallel_size": 1} | changed
    config = SimpleNamespace(
        model_config=SimpleNamespace(logits_processors=settings["logits_processors"]),
        parallel_config=SimpleNamespace(pipeline_parallel_size=settings["pipeline_parallel_size"]),
        speculative_config=None,
        lora_config=None,
    )
    with pytest.raises(ValueError, match=why):
        _refuse_unfit(config)
