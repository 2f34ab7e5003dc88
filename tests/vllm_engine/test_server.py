"""`driftline serve --backend vllm` against the embedded path, over HTTP, through the openai client."""

from __future__ import annotations

import asyncio
import json
import math
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from functools import cache
from pathlib import Path

import openai
import pytest
import torch
from pairs import prompts
from processes import children_of

from driftline.decoding.distribution import SamplingParams, combine_logits, probabilities
from driftline.decoding.sources import load_sampler

NAME, NEW = "pair", 12
ALPHAS = (None, 0.0, 1.0, 3.0, -1.0)


@pytest.fixture(scope="module")
def text_of(pair):
    """The embedded path's greedy text after a prompt of token ids; None is the server's alpha."""
    early, late = pair

    @cache
    def sampler(alpha: float | None):
        return load_sampler(late, early=early, alpha=1.5 if alpha is None else alpha, dtype="float32")

    def text(prompt: list[int], alpha: float | None = None, new: int = NEW) -> str:
        made = sampler(alpha)
        return made.text(made.sample([prompt], temperature=0, max_new_tokens=new, seeds=[0])[0])

    return text


@pytest.fixture(scope="module")
def logits_after(pair):
    """Extrapolated logits [V] after a prompt, by two plain models."""
    early, late = (load_sampler(one, dtype="float32").late for one in pair)

    def logits(prompt: list[int], alpha: float) -> torch.Tensor:
        ids = torch.tensor([prompt])
        with torch.no_grad():
            return combine_logits(early(ids).logits[0, -1], late(ids).logits[0, -1], alpha)

    return logits


def asked(alpha: float | None) -> dict:
    return {} if alpha is None else {"vllm_xargs": {"alpha": alpha}}


def complete(client, prompt, alpha=None, **more):
    settings = {"temperature": 0, "max_tokens": NEW} | more
    return client.completions.create(model=NAME, prompt=prompt, extra_body=asked(alpha), **settings)


def test_64_at_once_say_what_the_embedded_path_says(server, text_of):
    work = [(prompt, ALPHAS[index % len(ALPHAS)]) for index, prompt in enumerate(prompts(64, seed=5))]

    async def everyone():
        client = openai.AsyncOpenAI(base_url=server.address, api_key=server.key, max_retries=0)
        return await asyncio.gather(*[complete(client, prompt, alpha) for prompt, alpha in work])

    answers = asyncio.run(everyone())
    assert [answer.choices[0].text for answer in answers] == [text_of(*one) for one in work]


def test_text_and_chat_are_tokenised_alike(server, text_of):
    client = server.client()
    assert complete(client, "w5 w6 w7").choices[0].text == text_of([5, 6, 7])
    said = client.chat.completions.create(
        model=NAME,
        messages=[{"role": "w3", "content": "w4 w5"}],
        temperature=0,
        max_tokens=NEW,
        extra_body=asked(3.0),
    )
    assert said.choices[0].message.content == text_of([3, 4, 5, 9], 3.0)


def test_streaming(server, text_of):
    parts = complete(server.client(), [7, 8, 9], 3.0, stream=True, stream_options={"include_usage": True})
    text, chunks, usage = "", 0, None
    for part in parts:
        if part.choices:
            text, chunks = text + part.choices[0].text, chunks + 1
        usage = part.usage or usage
    assert text == text_of([7, 8, 9], 3.0)
    assert chunks > 3
    assert usage is not None
    assert usage.prompt_tokens == 3


def test_a_prefix_that_is_cached_serves_every_alpha(server, text_of):
    client, shared = server.client(), prompts(200, seed=8)
    prefix = [token for prompt in shared for token in prompt][:80]
    cached = []
    for last, alpha in ((11, None), (11, None), (12, None), (12, -1.0), (12, 3.0), (13, None), (13, 0.0)):
        answer = complete(client, [*prefix, last], alpha)
        assert answer.choices[0].text == text_of([*prefix, last], alpha)
        details = answer.usage.prompt_tokens_details
        cached.append(details.cached_tokens if details else 0)
    assert not cached[0]
    assert all(count >= 64 for count in cached[1:])


def z_of(counts: Counter, expected: torch.Tensor, drawn: int) -> float:
    """How many standard deviations a chi-squared statistic is off (Wilson and Hilferty); cells below 5 are joined."""
    cells = [(counts[token], drawn * p) for token, p in enumerate(expected.tolist()) if drawn * p >= 5]
    rest = (drawn - sum(seen for seen, _ in cells), drawn - sum(due for _, due in cells))
    cells += [rest] if rest[1] >= 5 else []
    freedom = len(cells) - 1
    statistic = sum((seen - due) ** 2 / due for seen, due in cells)
    return ((statistic / freedom) ** (1 / 3) - 1 + 2 / (9 * freedom)) / math.sqrt(2 / (9 * freedom))


@pytest.mark.parametrize(("alpha", "temperature", "top_p"), [(None, 1.0, 1.0), (3.0, 0.8, 0.9), (-1.0, 1.0, 1.0)])
def test_tokens_are_drawn_from_the_extrapolated_distribution(server, logits_after, alpha, temperature, top_p):
    client, prompt, drawn = server.client(), [21, 22, 23, 24], 6000
    counts: Counter = Counter()
    for seed in range(0, 6000, 500):  # the n choices of a request have the seeds that follow its own
        answer = complete(
            client, prompt, alpha, n=500, max_tokens=1, temperature=temperature, top_p=top_p, seed=seed, logprobs=0
        )
        counts.update(int(choice.logprobs.tokens[0].strip()[1:]) for choice in answer.choices)
    params = SamplingParams(temperature, top_p)
    right = probabilities(logits_after(prompt, 1.5 if alpha is None else alpha)[None], params)[0]
    wrong = probabilities(logits_after(prompt, 1.0)[None], params)[0]
    assert sum(counts.values()) == drawn
    assert abs(z_of(counts, right, drawn)) < 4
    assert z_of(counts, wrong, drawn) > 10


@pytest.mark.parametrize("alpha", [None, 3.0])
def test_log_probs_are_of_the_alpha_that_was_asked_for(server, logits_after, alpha):
    answer = complete(server.client(), [31, 32, 33], alpha, max_tokens=1, logprobs=3)
    expected = logits_after([31, 32, 33], 1.5 if alpha is None else alpha).log_softmax(-1)
    found = answer.choices[0].logprobs.top_logprobs[0]
    assert len(found) >= 3
    for token, logprob in found.items():
        assert logprob == pytest.approx(expected[int(token.strip()[1:])].item(), abs=1e-4)


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        ({"vllm_xargs": {"alpha": "1.5x"}}, "give a number between"),
        ({"vllm_xargs": {"alpha": [1.5]}}, "give a number between"),
        (
            {"vllm_xargs": {"alpha": 3.0}, "prompt_logprobs": 1},
            "log-probs of the prompt are those of the server's alpha",
        ),
        ({"vllm_xargs": {"alpha": 3.0}, "echo": True, "logprobs": 1}, "log-probs of the prompt"),
        ({"vllm_xargs": {"alpha": 3.0}, "use_beam_search": True, "n": 2}, "beam search is with the server's alpha"),
    ],
)
def test_a_request_that_would_get_something_else_is_refused(server, extra, why):
    with pytest.raises(openai.BadRequestError, match=why):
        server.client().completions.create(model=NAME, prompt=[5, 6, 7], max_tokens=2, extra_body=extra)


def test_tokens_that_are_padding_or_beyond_are_refused(server, text_of):
    with pytest.raises(openai.BadRequestError):
        complete(server.client(), [5, 100_000])
    assert complete(server.client(), [5, 6]).choices[0].text == text_of([5, 6])


def test_log_probs_of_a_prompt_are_of_the_servers_alpha(server, logits_after):
    prompt = [41, 42, 43, 44]
    answer = server.client().completions.create(
        model=NAME, prompt=prompt, max_tokens=1, temperature=0, extra_body={"prompt_logprobs": 0}
    )
    for place in range(1, len(prompt)):
        expected = logits_after(prompt[:place], 1.5).log_softmax(-1)[prompt[place]].item()
        found = answer.choices[0].prompt_logprobs[place][str(prompt[place])]
        assert found["logprob"] == pytest.approx(expected, abs=1e-4)


def test_a_client_that_is_killed_leaves_the_server_right(server, text_of):
    code = (
        "import openai, sys\n"
        f"client = openai.OpenAI(base_url={server.address!r}, api_key={server.key!r})\n"
        f"for part in client.completions.create(model={NAME!r}, prompt=[5, 6, 7], max_tokens=200, temperature=1,\n"
        "        stream=True, n=8, extra_body={'vllm_xargs': {'alpha': 3.0}, 'ignore_eos': True}):\n"
        "    print('got', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == "got\n"
        victim.send_signal(signal.SIGKILL)
    for prompt in prompts(8, seed=9):
        assert complete(server.client(), prompt).choices[0].text == text_of(prompt)
    deadline = time.monotonic() + 20
    while (running := running_now(server)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert running == 0


def running_now(server) -> float:
    with urllib.request.urlopen(server.address.replace("/v1", "/metrics")) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running"))


def test_the_key_is_asked_for_and_in_no_command_line(server):
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=server.address, api_key="wrong").models.list()
    assert [model.id for model in server.client().models.list()] == [NAME]
    beside = server.address.replace("/v1", "/invocations")  # which vLLM leaves open
    body = json.dumps({"model": NAME, "prompt": [5, 6], "max_tokens": 1}).encode()
    for key, status in (("wrong", 401), (server.key, 200)):
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        try:
            with urllib.request.urlopen(urllib.request.Request(beside, body, headers)) as answer:
                found = answer.status
        except urllib.error.HTTPError as refused:
            found = refused.code
        assert found == status
    below = children_of(server.process.pid)
    words = [Path(f"/proc/{one}/cmdline").read_bytes() for one in below]
    assert len(below) >= 2  # the server and its engine
    assert not any(server.key.encode() in line for line in words)
