"""The control for sharpening: temperatures found where they are known, and what a comparison is called."""

from __future__ import annotations

import math

import pytest
import torch
from lab_samplers import base_sampler, sharpened_sampler

from driftline.decoding.sampler import Sampler
from driftline.evaluation import sharpening
from driftline.evaluation.records import Difference
from driftline.evaluation.sharpening import entropies, judge, match, matched_temperature, response_logits, sentence


def test_entropies_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, -math.inf, 0.0, -math.inf], [math.log(3), 0.0, -1e9, -1e9]])
    quarter = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert entropies(logits, 1.0).tolist() == pytest.approx([math.log(4), math.log(2), quarter])
    tenth = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))  # 3² to 1
    assert entropies(logits[2:], 0.5).tolist() == pytest.approx([tenth])
    assert entropies(logits, 0.0).tolist() == [0, 0, 0]


@pytest.mark.parametrize("temperature", [0.05, 0.37, 1.0, 4.0])
def test_a_temperature_is_found_by_its_entropy(temperature: float) -> None:
    torch.manual_seed(0)
    logits = 5 * torch.randn(200, 50)
    goal = float(entropies(logits, temperature).mean())
    assert matched_temperature(logits, goal) == pytest.approx(temperature, rel=1e-4)


def test_an_entropy_out_of_reach_gives_the_nearest_end() -> None:
    logits = torch.randn(20, 5)
    assert matched_temperature(logits, 0.0) == pytest.approx(1e-3)
    assert matched_temperature(logits, 2.0) == pytest.approx(1e2)  # above log 5


@pytest.fixture(scope="module")
def base() -> Sampler:
    return base_sampler()


@pytest.fixture(scope="module")
def sharpened() -> Sampler:
    return sharpened_sampler()


@pytest.fixture(scope="module")
def pairs(base: Sampler) -> list[tuple[list[int], list[int]]]:
    ids = [base.tokenizer(prompt).input_ids for prompt in ("21+28+15=", "90+11+10=", "55+66+77=")]
    responses = base.sample(ids, temperature=1.0, max_new_tokens=12, seeds=[0, 1, 2])
    return [(prompt, response.ids) for prompt, response in zip(ids, responses, strict=True)]


@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_doubled_logits_are_matched_by_half_the_temperature(base, sharpened, pairs, temperature: float) -> None:
    found = match(sharpened, base, pairs, temperature)
    assert found.temperature == pytest.approx(temperature / 2, rel=1e-4)
    assert found.matched == pytest.approx(found.forecast, rel=1e-4)
    assert found.forecast < found.late
    assert found.tokens == sum(len(response) for _, response in pairs)


def test_a_few_tokens_do_when_all_are_too_many(base, sharpened, pairs, monkeypatch) -> None:
    every = sum(len(response) for _, response in pairs)
    monkeypatch.setattr(sharpening, "_LOGITS", 10 * 17)  # 17 tokens in the vocabulary
    found = match(sharpened, base, pairs, 1.0)
    assert found.tokens == math.ceil(every / math.ceil(every / 10)) < every
    assert found.temperature == pytest.approx(0.5, rel=1e-4)


def test_greedy_decoding_is_matched_by_itself(base, sharpened, pairs) -> None:
    found = match(sharpened, base, pairs, 0.0)
    assert (found.temperature, found.forecast, found.late, found.matched) == (0, 0, 0, 0)


def test_logits_are_those_of_the_tokens_that_were_sampled(base, sharpened, pairs) -> None:
    prompt, response = pairs[0]
    late, combined = (response_logits(sampler, prompt, response) for sampler in (base, sharpened))
    with torch.no_grad():
        for place in range(len(response)):
            alone = base.late(torch.tensor([prompt + response[:place]])).logits[0, -1]
            torch.testing.assert_close(late[place], alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(combined, 2 * late)


def difference(mean: float, p_value: float) -> Difference:
    return Difference(mean=mean, interval=[mean - 0.1, mean + 0.1], p_value=p_value)


@pytest.mark.parametrize(
    ("gain", "beyond", "verdict"),
    [
        ((0.2, 0.001), (0.1, 0.01), "gain"),
        ((0.2, 0.001), (0.1, 0.2), "sharpening"),
        ((0.2, 0.001), (-0.1, 0.01), "sharpening"),
        ((0.02, 0.4), (0.1, 0.01), "nothing"),
        ((-0.02, 0.4), (-0.1, 0.01), "nothing"),
        ((-0.2, 0.001), (-0.3, 0.001), "loss"),
    ],
)
def test_what_a_comparison_is_called(gain: tuple, beyond: tuple, verdict: str) -> None:
    assert judge(difference(*gain), difference(*beyond)) == verdict
    told = sentence(verdict, "decoding at alpha 1.5", "step 20", (0.5, 0.3, 0.4), 0.31, difference(*beyond))
    for figure in ("0.500", "0.300", "0.400", "0.31", "decoding at alpha 1.5", "step 20"):
        assert figure in told
    if verdict in ("gain", "sharpening"):
        mean = beyond[0]
        assert f"{mean:+.3f} over that (95 %: {mean - 0.1:+.3f} to {mean + 0.1:+.3f})" in told
    assert ("sharpening" in told) == (verdict in ("gain", "sharpening"))
