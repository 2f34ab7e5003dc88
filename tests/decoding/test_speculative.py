"""The speculative loop is exact: the right distribution, the same greedy tokens, whatever is drafted."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from tiny_models import VOCABULARY, distribution, greedy, next_logits, pair, prompts, tokenizer

from driftline.decoding.sampler import Sampler, row_seed
from driftline.decoding.speculative import Acceptance, verify_drafts

ALPHAS = (0.0, 0.5, 1.0, 1.5, 3.0)
SHAPES = ((1.0, 1.0, 0), (0.6, 0.95, 0), (1.2, 1.0, 50), (0.8, 0.9, 100))
CASES = list(itertools.product(ALPHAS, SHAPES))
QUICK = [(ALPHAS[k], SHAPES[k % 4]) for k in range(5)]


def p_value(tokens: np.ndarray, probability: np.ndarray) -> float:
    """Chi-squared test that `tokens` were drawn from `probability` [V]; rare tokens count together.

    A token of probability 0 fails it outright.
    """
    counts = np.bincount(tokens, minlength=len(probability))
    if counts[probability == 0].any():
        return 0.0
    expected = probability * len(tokens)
    common = expected >= 10
    observed = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    keep = wanted > 0
    return float(stats.chisquare(observed[keep], wanted[keep] * observed.sum() / wanted[keep].sum()).pvalue)


def draws(early, late, alpha: float, shape, prompt: list[int], count: int) -> np.ndarray:
    """The first three tokens [count, 3] of many samples of one prompt, three drafted at once."""
    temperature, top_p, top_k = shape
    sampler = Sampler(late, tokenizer(), early=early, alpha=alpha, lookahead=3)
    found = []
    for start in range(0, count, 1000):
        completions = sampler.sample(
            [prompt] * 1000,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            max_new_tokens=3,
            seeds=[row_seed(5, 0, sample) for sample in range(start, start + 1000)],
        )
        found += [[*c.ids, -1, -1][:3] for c in completions]
    return np.array(found)


def check_first_and_second_token(early, late, alpha: float, shape, count: int) -> None:
    """The second is judged after the first was accepted or replaced; its distribution is summed over all firsts."""
    after_prompt = {
        tuple(prompt): distribution(next_logits(early, late, alpha, torch.tensor([prompt])), *shape)[0]
        for prompt in prompts(20, seed=2)
    }
    prompt, first = min(after_prompt.items(), key=lambda item: item[1].square().sum())  # the least certain
    likely = torch.arange(VOCABULARY)[(first > 0) & (torch.arange(VOCABULARY) != 1)]  # after w1 nothing follows
    ids = torch.cat([torch.tensor(prompt).expand(len(likely), -1), likely[:, None]], 1)
    second = first[likely] @ distribution(next_logits(early, late, alpha, ids), *shape)
    tokens = draws(early, late, alpha, shape, list(prompt), count)
    assert (first > 0).sum() > 3
    assert p_value(tokens[:, 0], first.numpy()) > 1e-4
    after = tokens[tokens[:, 0] != 1][:, 1]
    assert p_value(after, (second / second.sum()).numpy()) > 1e-4


@pytest.mark.parametrize(("alpha", "shape"), QUICK)
def test_tokens_have_the_extrapolated_distribution(alpha, shape):
    check_first_and_second_token(*pair(apart=0.02), alpha, shape, 5000)


@pytest.mark.slow
@pytest.mark.parametrize(("alpha", "shape"), CASES)
def test_tokens_have_the_extrapolated_distribution_in_many_draws(alpha, shape):
    check_first_and_second_token(*pair(apart=0.02), alpha, shape, 60_000)


def test_the_test_tells_the_late_distribution_from_the_extrapolated_one():
    early, late = pair(apart=0.02)
    prompt = prompts(1, seed=2)[0]
    tokens = draws(early, late, 1.5, SHAPES[0], prompt, 6000)[:, 0]
    late_alone = distribution(next_logits(early, late, 1.0, torch.tensor([prompt])), *SHAPES[0])[0]
    assert p_value(tokens, late_alone.numpy()) < 1e-6


@pytest.mark.parametrize("kept", ["first", "second"])
def test_judging_gives_the_wanted_distribution_whatever_drafted(kept):
    """Drafts from an unrelated distribution, 2,000 tokens; tokens at the second place count where the first stands."""
    generator = torch.Generator().manual_seed(0)
    q, p = (torch.softmax(2 * torch.randn(2, 2000, generator=generator), -1) for _ in range(2))
    q[1], p[0, :50] = p[1].roll(1), 0  # nearly all second drafts are wrong; some first ones impossible
    p[0] /= p[0].sum()
    found = []
    for _ in range(20):
        drafts = torch.multinomial(q, 2000, replacement=True, generator=generator).T
        keep, replace = torch.rand(2, 2000, 2, generator=generator, dtype=torch.float64)
        tokens, count = verify_drafts(drafts, q.expand(2000, -1, -1), p.expand(2000, -1, -1), keep, replace)
        found.append(tokens[:, 0] if kept == "first" else tokens[count >= 1, 1])
    wanted = p[0 if kept == "first" else 1].double()
    assert p_value(torch.cat(found).numpy(), (wanted / wanted.sum()).numpy()) > 1e-4


@pytest.mark.parametrize("alpha", ALPHAS)
def test_greedy_tokens_are_those_of_plain_decoding(alpha):
    early, late = pair()
    asked = prompts(24)
    wanted = [greedy(early, late, alpha, prompt, 20) for prompt in asked]
    for lookahead in (1, 4, None):
        sampler = Sampler(late, tokenizer(), early=early, alpha=alpha, lookahead=lookahead)
        found = sampler.sample(asked, temperature=0, max_new_tokens=20, seeds=[0] * len(asked))
        assert [c.ids for c in found] == wanted


@pytest.mark.slow
@pytest.mark.parametrize("alpha", ALPHAS)
def test_greedy_tokens_are_those_of_plain_decoding_over_many_prompts(alpha):
    early, late = pair()
    asked = prompts(200, seed=9)
    sampler = Sampler(late, tokenizer(), early=early, alpha=alpha)
    found = sampler.sample(asked, temperature=0, max_new_tokens=32, seeds=[0] * len(asked))
    assert [c.ids for c in found] == [greedy(early, late, alpha, prompt, 32) for prompt in asked]


@pytest.mark.parametrize("alpha", [0.5, 1.5, 3.0])
def test_sampled_tokens_depend_neither_on_the_lookahead_nor_on_the_other_rows(alpha):
    early, late = pair()
    asked = prompts(12)
    settings: dict[str, Any] = {"temperature": 0.9, "top_p": 0.95, "max_new_tokens": 30}
    results = []
    for lookahead in (1, 5, None):
        sampler = Sampler(late, tokenizer(), early=early, alpha=alpha, lookahead=lookahead)
        results.append(sampler.sample(asked, seeds=range(12), **settings))
    assert results[0] == results[1] == results[2]
    alone = [sampler.sample([prompt], seeds=[seed], **settings)[0] for seed, prompt in enumerate(asked)]
    assert alone == results[0]
    assert sampler.sample(asked, seeds=range(1, 13), **settings) != results[0]


def test_rows_of_windowed_attention_are_packed_without_holes():
    """Half the layers see 8 tokens only; plain decoding reads everything anew."""
    kinds = ["sliding_attention", "full_attention"]
    early, late = pair(use_sliding_window=True, sliding_window=8, max_window_layers=0, layer_types=kinds)
    full = pair()
    asked = prompts(12)
    wanted = [greedy(early, late, 2.0, prompt, 24) for prompt in asked]
    assert wanted != [greedy(*full, 2.0, prompt, 24) for prompt in asked]  # the window matters
    sampler = Sampler(late, tokenizer(), early=early, alpha=2.0, lookahead=5)
    found = sampler.sample(asked, temperature=0, max_new_tokens=24, seeds=[0] * 12)
    assert [c.ids for c in found] == wanted
    assert sampler.acceptance.rate < 1  # some rows refused drafts


def test_drafting_goes_further_the_more_is_kept():
    def lookahead(rate: float) -> int:
        acceptance = Acceptance()
        for _ in range(100):
            acceptance.add(round(100 * rate), 100, 20)
        assert acceptance.rate == pytest.approx(rate)
        return acceptance.lookahead()

    chosen = [lookahead(rate) for rate in (0.1, 0.6, 0.8, 0.9, 0.97, 1.0)]
    assert chosen == sorted(chosen)
    assert chosen[0] == 1
    assert chosen[-1] == 16


def test_acceptance_is_counted():
    early, late = pair()
    sampler = Sampler(late, tokenizer(), early=early, alpha=1.0, lookahead=4)
    completions = sampler.sample(prompts(6), max_new_tokens=24, seeds=range(6))
    assert {len(c.ids) for c in completions} == {24}
    assert sampler.acceptance.rate == 1  # at alpha 1 the draft is the outcome
    assert sampler.acceptance.tokens_per_early_pass == 4
    lockstep = Sampler(late, tokenizer(), early=early, alpha=3.0, lookahead=1)
    lockstep.sample(prompts(6), max_new_tokens=24, seeds=range(6))
    assert lockstep.acceptance.tokens_per_early_pass == 1
    assert 0 < lockstep.acceptance.rate < 1
