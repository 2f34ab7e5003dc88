"""Models whose logits are no numbers: nothing is drawn from them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tiny_models import pair, save, tokenizer

from driftline.decoding.distribution import must_be_numbers
from driftline.decoding.generate import generate
from driftline.decoding.sampler import Sampler
from driftline.decoding.settings import GenerationSettings
from driftline.errors import InputError

TENSOR = "model.layers.1.mlp.up_proj.weight"


def spoilt(model: torch.nn.Module, value: float) -> torch.nn.Module:
    with torch.no_grad():
        dict(model.named_parameters())[TENSOR][3, 2] = value
    return model


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("which", ["alone", "late", "early"])
def test_no_token_is_drawn_from_what_is_no_number(which: str, temperature: float, value: float) -> None:
    early, late = pair()
    spoilt(early if which == "early" else late, value)
    sampler = Sampler(late, tokenizer()) if which == "alone" else Sampler(late, tokenizer(), early=early, alpha=1.5)
    with pytest.raises(InputError, match=f"holds weights that are not finite, in {TENSOR}: give another"):
        sampler.sample([[5, 7]], temperature=temperature, max_new_tokens=4, seeds=[0])


def test_numbers_that_overflow_on_the_way_are_told_from_weights_that_are_none() -> None:
    late = pair()[1]
    with pytest.raises(InputError, match=r"the logits are not finite, though the weights are: .* give --dtype float32"):
        must_be_numbers(torch.tensor([[1.0, math.inf]]), [late])
    with pytest.raises(InputError, match="not finite"):
        must_be_numbers(torch.full((1, 2), -math.inf), [late])
    must_be_numbers(torch.tensor([[1.0, -math.inf]]), [late])  # a banned token


def test_samples_that_cannot_be_begun_leave_no_file(tmp_path: Path) -> None:
    model = str(save(tmp_path / "model", spoilt(pair()[1], math.nan)))
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "w5"}\n')
    with pytest.raises(InputError, match=f"model holds weights that are not finite, in {TENSOR}"):
        generate(tmp_path / "prompts.jsonl", tmp_path / "out.jsonl", GenerationSettings(late=model, max_new_tokens=2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "prompts.jsonl"]
