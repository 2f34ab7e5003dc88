"""The sampler against transformers' own generation, where it ends, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import CONTEXT, VOCABULARY, pair, prompts, tokenizer

from driftline.decoding.sampler import Sampler, row_seed
from driftline.errors import InputError


def generated(model, asked: list[list[int]], new: int, **settings) -> list[list[int]]:
    """transformers' greedy decoding of one left-padded batch, rows cut after their end token."""
    batch = tokenizer().pad({"input_ids": asked}, return_tensors="pt")
    output = model.generate(**batch, max_new_tokens=new, do_sample=False, **settings)
    rows = [row.tolist() for row in output[:, batch["input_ids"].shape[1] :]]
    return [row[: row.index(1) + 1] if 1 in row else row for row in rows]


def ending_often(model):
    """A model whose end token is likely."""
    with torch.no_grad():
        model.lm_head.weight[1] = 1.1 * model.lm_head.weight[2:].abs().max() * model.lm_head.weight[5].sign()
    return model


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_greedy_at_a_models_own_alpha_is_that_models_generation(alpha):
    early, late = pair()
    asked = prompts(16)
    sampler = Sampler(late, tokenizer(), early=early, alpha=alpha)
    found = sampler.sample(asked, temperature=0, max_new_tokens=24, seeds=[0] * 16)
    assert [c.ids for c in found] == generated(late if alpha else early, asked, 24)


def test_one_model_alone_is_that_models_generation():
    _, late = pair()
    asked = prompts(16)
    found = Sampler(late, tokenizer()).sample(asked, temperature=0, max_new_tokens=24, seeds=[0] * 16)
    assert [c.ids for c in found] == generated(late, asked, 24)


def test_rows_end_with_the_end_token_or_at_the_limit():
    early, late = (ending_often(model) for model in pair())
    asked = prompts(40)
    sampler = Sampler(late, tokenizer(), early=early, alpha=1.5, lookahead=6)
    found = sampler.sample(asked, temperature=1, max_new_tokens=12, seeds=range(40))
    for completion in found:
        assert 1 not in completion.ids[:-1]
        assert completion.finish_reason == ("stop" if completion.ids[-1] == 1 else "length")
        assert completion.finish_reason == "stop" or len(completion.ids) == 12
    assert {c.finish_reason for c in found} == {"stop", "length"}


def test_a_shorter_limit_gives_the_beginning_of_the_same_rows():
    early, late = pair()
    sampler = Sampler(late, tokenizer(), early=early, alpha=1.5)
    long, short = (sampler.sample(prompts(8), max_new_tokens=n, seeds=range(8)) for n in (30, 7))
    assert [c.ids[:7] for c in long] == [c.ids for c in short]


def test_all_end_tokens_of_the_model_end_a_row():
    _, late = pair()
    tokens = Sampler(late, tokenizer()).sample([[5, 6]], temperature=0, max_new_tokens=8, seeds=[0])[0].ids
    late.generation_config.eos_token_id = [1, tokens[3]]
    stopped = Sampler(late, tokenizer()).sample([[5, 6]], temperature=0, max_new_tokens=8, seeds=[0])[0]
    assert (stopped.ids, stopped.finish_reason) == (tokens[: tokens.index(tokens[3]) + 1], "stop")


def test_a_stop_string_ends_the_row_and_is_cut_from_the_text():
    early, late = pair()
    sampler = Sampler(late, tokenizer(), early=early, alpha=1.5)
    settings: dict[str, Any] = {"temperature": 0, "max_new_tokens": 20, "seeds": [0, 0]}
    whole = sampler.sample([[5, 6], [7]], **settings)
    stop = tokenizer().decode(whole[0].ids[4:6])  # spans two tokens
    ended = sampler.sample([[5, 6], [7]], stop=[stop, "absent"], **settings)
    assert ended[0].ids == whole[0].ids[:6]
    assert ended[0].finish_reason == "stop"
    assert sampler.text(ended[0], [stop]) == tokenizer().decode(whole[0].ids[:4]) + " "
    assert ended[1] == whole[1]


def test_a_completion_stops_at_the_models_context():
    early, late = pair()
    prompt = prompts(1, longest=1)[0] * (CONTEXT - 5)
    sampler = Sampler(late, tokenizer(), early=early, alpha=1.5, lookahead=8)
    long, short = sampler.sample([prompt, [3]], temperature=0, max_new_tokens=50, seeds=[0, 0])
    assert (len(long.ids), long.finish_reason) == (5, "length")
    assert len(short.ids) == 50


def test_many_samples_of_one_prompt_differ_and_are_reproducible():
    _, late = pair()
    sampler = Sampler(late, tokenizer())
    seeds = [row_seed(0, 0, sample) for sample in range(20)]
    first = sampler.sample([[4, 5, 6]] * 20, max_new_tokens=5, seeds=seeds)
    assert len({tuple(c.ids) for c in first}) > 15
    assert first == sampler.sample([[4, 5, 6]] * 20, max_new_tokens=5, seeds=seeds)
    assert len({row_seed(s, i, k) for s in range(9) for i in range(9) for k in range(9)}) == 9**3


def test_what_cannot_be_decoded_is_refused():
    early, late = pair()
    sampler = Sampler(late, tokenizer(), early=early, alpha=1.5)
    with pytest.raises(InputError, match=f"{CONTEXT} tokens and the model's context is {CONTEXT}"):
        sampler.sample([[3] * CONTEXT], max_new_tokens=1, seeds=[0])
    with pytest.raises(InputError, match="no tokens"):
        sampler.sample([[3], []], max_new_tokens=1, seeds=[0, 0])
    with pytest.raises(InputError, match="--max-new-tokens is 0"):
        sampler.sample([[3]], max_new_tokens=0, seeds=[0])
    with pytest.raises(InputError, match=f"{VOCABULARY} logits and the early one 50"):
        Sampler(late, tokenizer(), early=pair(vocab_size=50)[0], alpha=1.5)
    assert sampler.sample([], max_new_tokens=1, seeds=[]) == []
