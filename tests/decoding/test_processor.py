"""The logits processor inside transformers' generate: both models at their own alpha, padding, beams, many calls."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import greedy, pair, prompts, tokenizer

from driftline.decoding.processor import ExtrapolatedLogits

NEW = 16


def batch_of(asked: list[list[int]]):
    return tokenizer().pad({"input_ids": asked}, return_tensors="pt")


def generate(model, batch, processor=None, **settings) -> Any:
    processors = [] if processor is None else [processor]
    settings = {"do_sample": False, "max_new_tokens": NEW, "logits_processor": processors} | settings
    return model.generate(**batch, **settings)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_models_own_alpha_gives_its_tokens(alpha):
    early, late = pair()
    batch = batch_of(prompts(16))
    found = generate(late, batch, ExtrapolatedLogits(early, alpha, pad_token_id=0))
    assert torch.equal(found, generate(late if alpha else early, batch))
    assert not torch.equal(found, generate(early if alpha else late, batch))


@pytest.mark.parametrize("alpha", [0.5, 1.5, 3.0])
def test_other_alphas_give_the_tokens_of_plain_decoding(alpha):
    early, late = pair()
    asked = prompts(16)
    batch = batch_of(asked)
    found = generate(late, batch, ExtrapolatedLogits(early, alpha, pad_token_id=0))[:, batch["input_ids"].shape[1] :]
    for row, prompt in zip(found.tolist(), asked, strict=True):
        wanted = greedy(early, late, alpha, prompt, NEW)
        assert row[: len(wanted)] == wanted


def test_one_processor_serves_call_after_call():
    early, late = pair()
    processor = ExtrapolatedLogits(early, 1.5, pad_token_id=0)
    for asked in (prompts(4), prompts(7, seed=5), prompts(7, seed=6), [[5, 6]], [[5, 6]]):
        fresh = generate(late, batch_of(asked), ExtrapolatedLogits(early, 1.5, pad_token_id=0))
        assert torch.equal(generate(late, batch_of(asked), processor), fresh)
    longer = generate(late, batch_of([[5, 6]]), processor)[:, :-1]  # a prompt that is what the cache holds
    assert torch.equal(
        generate(late, {"input_ids": longer, "attention_mask": torch.ones_like(longer)}, processor, max_new_tokens=1)[
            0
        ],
        generate(late, batch_of([[5, 6]]), processor)[0],
    )


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_beams_are_followed(alpha):
    early, late = pair()
    batch = batch_of(prompts(6))
    settings = {"num_beams": 4, "num_return_sequences": 3, "return_dict_in_generate": True, "output_scores": True}
    found = generate(late, batch, ExtrapolatedLogits(early, alpha, pad_token_id=0), **settings)
    wanted = generate(late if alpha else early, batch, **settings)
    assert torch.equal(found.sequences, wanted.sequences)
    torch.testing.assert_close(found.sequences_scores, wanted.sequences_scores)


def test_sampling_settings_apply_after_the_extrapolation():
    early, late = pair()
    batch = batch_of(prompts(6))
    settings = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 30}
    torch.manual_seed(0)
    found = generate(late, batch, ExtrapolatedLogits(early, 0.0, pad_token_id=0), **settings)
    torch.manual_seed(0)
    assert torch.equal(found, generate(early, batch, **settings))


def test_prompts_that_begin_with_the_padding_token_need_their_mask():
    early, late = pair()
    asked = [[0, 7, 8, 9], [0, 0, 5]]
    batch = {
        "input_ids": torch.tensor([[0, 7, 8, 9], [0, 0, 0, 5]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]]),
    }
    processor = ExtrapolatedLogits(early, 2.0, attention_mask=batch["attention_mask"])
    found = generate(late, batch, processor)[:, 4:].tolist()
    assert found == [greedy(early, late, 2.0, prompt, NEW) for prompt in asked]
    with pytest.raises(ValueError, match="give the mask of these prompts"):
        generate(late, batch_of(prompts(3)), processor)


def test_half_precision_scores_are_combined_in_float32():
    early, late = (model.to(torch.bfloat16) for model in pair())
    batch = batch_of(prompts(6))
    found = generate(late, batch, ExtrapolatedLogits(early, 1.0, pad_token_id=0))
    assert torch.equal(found, generate(late, batch))
