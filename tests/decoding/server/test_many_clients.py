"""Many clients at once: each gets what it would get alone."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from endpoints import Endpoint, endpoint, sampler, slow, wait_until
from tiny_models import pair, prompts, tokenizer
from transformers import PreTrainedTokenizerFast

from driftline.decoding.sampler import Sampler, row_seed
from driftline.decoding.server import application
from driftline.prompts import SHORT

openai = pytest.importorskip("openai")
CLIENTS = 32
SHAPES: tuple[dict[str, float], ...] = ({"temperature": 0}, {"temperature": 0.8, "top_p": 0.9}, {"temperature": 1.1})


@pytest.fixture(scope="module")
def served() -> Iterator[Endpoint]:
    with endpoint(sampler()) as running:
        yield running


@pytest.fixture(scope="module")
def client(served: Endpoint) -> Iterator[Any]:
    with openai.OpenAI(base_url=served.url, api_key="none", max_retries=0) as made:
        yield made


def streamed(client: Any, **request: Any) -> tuple[list[str], list[str | None]]:
    """Texts and reasons of a request's choices, joined from the stream's chunks."""
    count = request.get("n", 1)
    texts = [""] * count
    reasons: list[str | None] = [None] * count
    for chunk in client.completions.create(model="tiny", stream=True, **request):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    return texts, reasons


def test_32_clients_stream_at_once_what_each_would_get_alone(client, served, monkeypatch):
    asked = prompts(CLIENTS)
    early, late = pair()

    def ask(k: int) -> tuple[list[str], list[str | None]]:
        return streamed(
            client, prompt=asked[k], max_tokens=10 + k, seed=k, extra_body={"alpha": (k % 4) / 2}, **SHAPES[k % 3]
        )

    decode = served.scheduler._decode
    together: list[int] = []

    def watched() -> None:
        if not together:  # however slowly they come
            wait_until(lambda: len(served.scheduler._jobs) > 5, 60)
        together.append(served.scheduler.decoding)
        decode()

    monkeypatch.setattr(served.scheduler, "_decode", watched)
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = [pool.submit(ask, k) for k in range(CLIENTS)]
    for k, answer in enumerate(answers):
        alone = Sampler(late, tokenizer(), early=early, alpha=(k % 4) / 2)
        settings: dict[str, Any] = SHAPES[k % 3]
        wanted = alone.sample([asked[k]], max_new_tokens=10 + k, seeds=[row_seed(k, 0, 0)], **settings)[0]
        assert answer.result() == ([alone.text(wanted)], [wanted.finish_reason])
    assert max(together) > 4  # they were decoded together
    assert served.scheduler.decoding == served.scheduler.queued == 0


def test_samples_of_several_prompts_are_streamed_in_their_places(client):
    one = client.completions.create(model="tiny", prompt="w5 w7", max_tokens=9, seed=3, n=3)
    texts, _ = streamed(client, prompt="w5 w7", max_tokens=9, seed=3, n=3)
    assert texts == [choice.text for choice in one.choices]
    assert len(set(texts)) == 3


def test_a_stream_has_the_form_of_openais(client):
    request: dict[str, Any] = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "w7"}],
        "max_tokens": 6,
        "seed": 1,
    }
    whole = client.chat.completions.create(**request)
    chunks = list(client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}))
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == whole.choices[0].message.content
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_stop_string_is_never_sent(client):
    whole = client.completions.create(model="tiny", prompt="w5", temperature=0, max_tokens=30).choices[0].text
    stop = whole[10:15]
    texts, reasons = streamed(client, prompt="w5", temperature=0, max_tokens=30, stop=[stop, "absent"])
    assert texts == [whole[: whole.index(stop)]]
    assert reasons == ["stop"]


def test_token_ids_are_returned_where_asked(client):
    asked: dict[str, Any] = {"prompt": [5, 7], "max_tokens": 8, "seed": 4, "extra_body": {"return_token_ids": True}}
    whole = client.completions.create(model="tiny", **asked).choices[0]
    wanted = sampler().sample([[5, 7]], max_new_tokens=8, seeds=[row_seed(4, 0, 0)])[0]
    assert (whole.token_ids, whole.prompt_token_ids) == (wanted.ids, [5, 7])
    chunks = list(client.completions.create(model="tiny", stream=True, **asked))
    assert chunks[0].choices[0].prompt_token_ids == [5, 7]
    assert [token for chunk in chunks for token in chunk.choices[0].token_ids] == wanted.ids


@pytest.mark.parametrize("extra", [{"alpha": 0.25}, {"vllm_xargs": {"alpha": 0.25}}])
def test_a_request_may_have_an_alpha_of_its_own(client, extra):
    found = client.completions.create(model="tiny", prompt=[5, 7], max_tokens=20, seed=4, extra_body=extra)
    early, late = pair()
    alone = Sampler(late, tokenizer(), early=early, alpha=0.25)
    wanted = alone.sample([[5, 7]], max_new_tokens=20, seeds=[row_seed(4, 0, 0)])[0]
    assert found.choices[0].text == alone.text(wanted)
    assert wanted != sampler().sample([[5, 7]], max_new_tokens=20, seeds=[row_seed(4, 0, 0)])[0]


def test_a_model_alone_refuses_alpha_and_says_what_it_is(client, served):
    told = client.models.list().data[0].driftline
    answer = client.completions.create(model="tiny", prompt="w5", max_tokens=1)
    assert told == {"early": True, "alpha": 1.5, "fingerprint": answer.system_fingerprint}
    assert answer.system_fingerprint.startswith("driftline-")
    with endpoint(Sampler(pair()[1], tokenizer())) as running:
        status, answer, _ = running.send({"model": "tiny", "prompt": "w5", "alpha": 1.5})
        assert (status, "alpha needs an early model" in answer["error"]["message"]) == (400, True)
        assert running.send({"model": "tiny", "prompt": "w5"})[0] == 200
        assert '"early":false' in running.get("/v1/models").replace(" ", "")


def test_a_short_request_does_not_wait_for_one_of_many_samples():
    with endpoint(slow(sampler(lookahead=1), 0.02), max_batch=8) as running, ThreadPoolExecutor(1) as pool:
        long = pool.submit(running.send, {"model": "tiny", "prompt": "w5", "n": 64, "max_tokens": 40})
        wait_until(lambda: running.scheduler.decoding == 6, 10)  # the others are kept for other requests
        assert running.send({"model": "tiny", "prompt": "w7", "max_tokens": 2})[0] == 200
        assert not long.done()
        assert long.result()[0] == 200


def test_what_is_held_stays_within_the_budget_and_texts_stay_the_same():
    """Rows that grew too long together wait, and go on where they were."""
    asked = {"model": "tiny", "prompt": "w5 w7", "n": 8, "max_tokens": 60, "seed": 2, "temperature": 0.9}
    with endpoint(sampler(), max_tokens=400) as running:
        decode, held = running.scheduler._decode, []

        def watched() -> None:
            held.append(sum(row.finish_reason is None for row in running.scheduler._batch.rows))
            decode()

        running.scheduler._decode = watched  # type: ignore[method-assign]  # in its thread: to look from another slows it
        found = [choice["text"] for choice in running.send(asked)[1]["choices"]]
    wanted = sampler().sample(
        [[5, 7]] * 8, temperature=0.9, max_new_tokens=60, seeds=[row_seed(2, 0, k) for k in range(8)]
    )
    assert found == [sampler().text(c) for c in wanted]
    assert max(held) == 6  # 6 x (2 + 64) fit into 400 when they come, 7 do not
    assert min(filter(None, held)) < 6


class Waiting(PreTrainedTokenizerFast):
    """Takes a byte from a pipe for each long text, and waits for it."""

    pipe: int

    def __call__(self, text: str, **how: Any) -> Any:
        if len(text) > SHORT:
            os.read(self.pipe, 1)
        return super().__call__(text, **how)


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Endpoint, int]]:
    """A server that reads long texts one by one as bytes are written into a pipe, and has room for few."""
    ours = Waiting(tokenizer_object=tokenizer().backend_tokenizer, pad_token="w0", eos_token="w1")
    ours.pipe, write = os.pipe()
    monkeypatch.setattr(application, "MOST_BODIES", 4 * SHORT)
    try:
        with endpoint(Sampler(pair()[1], ours)) as running:
            yield running, write
    finally:
        os.close(write)
        os.close(ours.pipe)


def test_what_is_short_does_not_wait_for_what_is_long(waiting):
    running, write = waiting
    short, long = ({"model": "tiny", "prompt": "w5 " * n, "max_tokens": 2} for n in (1, SHORT // 2))
    with ThreadPoolExecutor(3) as pool:
        pending = [pool.submit(running.send, long) for _ in range(2)]
        wait_until(lambda: sum(thread.name == "encoding" for thread in threading.enumerate()) == 2, 30)
        assert running.send(short)[0] == 200
        third, answer, _ = running.send(long)  # those that wait are counted
        assert (third, "too much is being received at once" in answer["error"]["message"]) == (503, True)
        assert running.send(short)[0] == 200
        assert not any(answer.done() for answer in pending)
        os.write(write, b"ab")
        for status, answer, _ in (one.result() for one in pending):
            said = f"the request has {SHORT // 2} tokens and the model's context is 96: shorten the prompt"
            assert (status, answer["error"]["message"]) == (400, said)
    assert running.send(short)[0] == 200
