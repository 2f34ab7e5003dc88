"""Log-probs are those of the extrapolated logits, before temperature, whatever reads them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from endpoints import Endpoint, endpoint, sampler
from tiny_models import CONTEXT, next_logits, pair, prompts, tokenizer

from driftline.decoding.likelihood import log_probs

openai = pytest.importorskip("openai")


@pytest.fixture(scope="module")
def served() -> Iterator[Endpoint]:
    with endpoint(sampler()) as running:
        yield running


@pytest.fixture(scope="module")
def client(served: Endpoint) -> Iterator[Any]:
    with openai.OpenAI(base_url=served.url, api_key="none", max_retries=0) as made:
        yield made


def wanted(prompt: list[int], alpha: float = 1.5) -> torch.Tensor:
    """Log-probs [V] of what follows a prompt, in float64, written out."""
    return next_logits(*pair(), alpha, torch.tensor([prompt])).log_softmax(-1)[0]


def word(token: int) -> str:
    return tokenizer().decode([token])


@pytest.mark.parametrize("alpha", [0.0, 1.5, 3.0])
@pytest.mark.parametrize("settings", [{"temperature": 0}, {"temperature": 0.5, "top_p": 0.8}])
def test_every_token_has_its_own_and_the_likeliest(client, alpha, settings):
    asked: dict[str, Any] = {"prompt": [5, 7], "max_tokens": 12, "seed": 1, "logprobs": 3} | settings
    found = client.completions.create(model="tiny", extra_body={"alpha": alpha, "return_token_ids": True}, **asked)
    choice = found.choices[0]
    assert choice.logprobs.tokens == [word(token) for token in choice.token_ids]
    for place, token in enumerate(choice.token_ids):
        expected = wanted([5, 7, *choice.token_ids[:place]], alpha)
        assert choice.logprobs.token_logprobs[place] == pytest.approx(expected[token].item(), abs=1e-3)
        top = {word(other): expected[other].item() for other in expected.topk(3).indices.tolist()}
        top.setdefault(word(token), expected[token].item())
        assert choice.logprobs.top_logprobs[place] == pytest.approx(top, abs=1e-3)


def test_a_stream_has_the_same(client):
    asked: dict[str, Any] = {
        "model": "tiny",
        "prompt": [5, 7],
        "max_tokens": 12,
        "seed": 1,
        "logprobs": 2,
        "echo": True,
    }
    whole = client.completions.create(**asked).choices[0]
    chunks = [c.choices[0] for c in client.completions.create(**asked, stream=True)]
    assert "".join(chunk.text for chunk in chunks) == whole.text
    for column in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        joined = [item for chunk in chunks for item in getattr(chunk.logprobs, column)]
        assert joined == getattr(whole.logprobs, column)


def test_a_chat_has_them_in_its_own_form(client):
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "w7"}], "max_tokens": 6, "temperature": 0}
    found = client.chat.completions.create(model="tiny", logprobs=True, top_logprobs=2, **asked).choices[0]
    prompt = tokenizer()("user w7 w9").input_ids
    assert len(found.logprobs.content) == 6
    for scored in found.logprobs.content:
        expected = wanted(prompt)
        prompt = [*prompt, int(expected.argmax())]
        assert (scored.token, bytes(scored.bytes).decode()) == (word(prompt[-1]),) * 2
        assert scored.logprob == pytest.approx(expected.max().item(), abs=1e-3)
        assert [top.logprob for top in scored.top_logprobs] == pytest.approx(expected.topk(2).values.tolist(), abs=1e-3)
    chunks = list(client.chat.completions.create(model="tiny", logprobs=True, top_logprobs=2, stream=True, **asked))
    scores = [s for chunk in chunks if chunk.choices[0].logprobs for s in chunk.choices[0].logprobs.content]
    assert scores == found.logprobs.content


@pytest.mark.parametrize("most", [0, 1])
@pytest.mark.parametrize("alpha", [0.5, 1.5])
def test_echo_scores_the_prompts_own_tokens(client, most, alpha):
    asked = prompts(12, longest=60)
    found = client.completions.create(
        model="tiny", prompt=asked, max_tokens=most, logprobs=1, echo=True, temperature=0, extra_body={"alpha": alpha}
    )
    alone = sampler()
    alone.alpha = alpha
    expected = log_probs(alone, [(prompt[:1], prompt[1:] or [5]) for prompt in asked])
    for choice, prompt, (values, greedy) in zip(found.choices, asked, expected, strict=True):
        assert len(choice.logprobs.tokens) == len(prompt) + most
        assert choice.text.startswith(tokenizer().decode(prompt))
        assert choice.logprobs.token_logprobs[0] is None
        assert choice.logprobs.top_logprobs[0] is None
        if len(prompt) > 1:
            scored = choice.logprobs.token_logprobs[1 : len(prompt)]
            assert scored == pytest.approx(values, abs=1e-3)
            tops = choice.logprobs.top_logprobs[1 : len(prompt)]
            assert all(max(top.values()) == value for top, value in zip(tops, scored, strict=True)) == greedy
        assert choice.finish_reason == "length"
    assert found.usage.completion_tokens == 12 * most


def test_a_prompt_may_fill_the_context_where_nothing_is_to_follow(client):
    asked = {"model": "tiny", "logprobs": 1, "echo": True, "prompt": [5] * CONTEXT}
    found = client.completions.create(max_tokens=0, **asked)
    assert len(found.choices[0].logprobs.token_logprobs) == CONTEXT
    with pytest.raises(openai.BadRequestError, match=f"{CONTEXT} tokens"):
        client.completions.create(max_tokens=1, **asked)


def test_a_prompt_read_in_pieces_has_the_same_scores(client, monkeypatch):
    asked: dict[str, Any] = {"model": "tiny", "prompt": [prompts(1, longest=80, seed=k)[0] for k in range(6)]}
    asked |= {"max_tokens": 4, "logprobs": 2, "echo": True, "seed": 3}
    whole = client.completions.create(**asked)
    monkeypatch.setattr("driftline.decoding.server.scheduler._PIECE", 30)  # 5 of each, and each longer than 30 alone
    pieces = client.completions.create(**asked)
    for one, other in zip(whole.choices, pieces.choices, strict=True):
        assert one.text == other.text
        assert one.logprobs.token_logprobs[1:] == pytest.approx(other.logprobs.token_logprobs[1:], abs=1e-4)


def test_lm_evaluation_harness_reads_them(served):
    api_models = pytest.importorskip("lm_eval.models.openai_completions")
    ours = sampler()
    pairs = [(prompt[: len(prompt) // 2 + 1], prompt[len(prompt) // 2 + 1 :]) for prompt in prompts(8, longest=30)]
    pairs = [(context, rest) for context, rest in pairs if rest]
    body = {"model": "tiny", "prompt": [a + b for a, b in pairs], "temperature": 0, "max_tokens": 1, "logprobs": 1}
    status, answer, _ = served.send(body | {"seed": 1234, "echo": True})
    assert status == 200
    found = api_models.LocalCompletionsAPI.parse_logprobs(answer, ctxlens=[len(context) for context, _ in pairs])
    for (value, greedy), (values, was_greedy) in zip(found, log_probs(ours, pairs), strict=True):
        assert value == pytest.approx(sum(values), abs=1e-3)
        assert greedy == was_greedy
