"""The endpoint, asked by the real openai client over a real socket."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from tiny_models import CONTEXT, VOCABULARY, pair, tokenizer

from driftline.decoding.sampler import Sampler, row_seed
from driftline.errors import InputError

openai = pytest.importorskip("openai")
uvicorn = pytest.importorskip("uvicorn")
serving = pytest.importorskip("driftline.decoding.serve")


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    early, late = pair()
    return Sampler(late, tokenizer(), early=early, alpha=1.5)


@pytest.fixture(scope="module")
def address(sampler: Sampler) -> Iterator[str]:
    listener = serving.listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(serving.application(sampler, "tiny", "secret"), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=address, api_key="secret", max_retries=0) as made:
        yield made


def post(address: str, body: bytes, key: str = "secret") -> tuple[int, str]:
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{address}/completions", body, headers)) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)["error"]["message"]


def test_completions_are_the_samplers(client, sampler):
    found = client.completions.create(model="tiny", prompt="w5 w7", max_tokens=9, temperature=0.8, seed=3, n=2)
    wanted = sampler.sample(
        [[5, 7]] * 2, temperature=0.8, max_new_tokens=9, seeds=[row_seed(3, 0, k) for k in range(2)]
    )
    assert [choice.text for choice in found.choices] == [sampler.text(c) for c in wanted]
    assert [choice.finish_reason for choice in found.choices] == ["length", "length"]
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (2, 18)


def test_prompts_may_be_several_or_token_ids(client):
    texts, ids = (
        client.completions.create(model="tiny", prompt=prompt, temperature=0, max_tokens=5)
        for prompt in (["w5 w7", "w9"], [[5, 7], [9]])
    )
    assert [c.text for c in texts.choices] == [c.text for c in ids.choices]
    one = client.completions.create(model="tiny", prompt=[5, 7], temperature=0, max_tokens=5)
    assert one.choices[0].text == texts.choices[0].text


def test_chat_goes_through_the_template(client, sampler):
    found = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "w7"}], temperature=0, max_tokens=6
    )
    ids = tokenizer()("user w7 w9").input_ids
    wanted = sampler.sample([ids], temperature=0, max_new_tokens=6, seeds=[0])[0]
    assert found.choices[0].message.content == sampler.text(wanted)
    assert found.choices[0].message.role == "assistant"


def test_a_chat_without_a_limit_ends_at_the_context(client):
    found = client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "w7"}], temperature=0)
    assert found.usage.total_tokens == CONTEXT


def test_a_stop_string_ends_the_text(client):
    whole = client.completions.create(model="tiny", prompt="w5", temperature=0, max_tokens=8).choices[0].text
    third = whole.split()[2]
    found = client.completions.create(model="tiny", prompt="w5", temperature=0, max_tokens=8, stop=third).choices[0]
    assert found.text == whole[: whole.index(third)]
    assert found.finish_reason == "stop"


def test_the_model_is_listed(client):
    assert [model.id for model in client.models.list()] == ["tiny"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"temperature": -1}, "temperature"),
        ({"n": 0}, "n: "),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"prompt": ""}, "neither prompt"),
        ({"prompt": [5, VOCABULARY]}, f"outside 0 to {VOCABULARY - 1}"),
        ({"prompt": [[]]}, "no tokens"),
        ({"prompt": [5] * CONTEXT}, f"{CONTEXT} tokens"),
        ({"stop": [""]}, "empty string"),
        ({"logprobs": 3}, "logprobs is not supported"),
        ({"stream": True}, "stream is not supported"),
    ],
)
def test_a_request_that_is_wrong_gets_a_sentence(client, changes, sentence):
    request = {"model": "tiny", "prompt": "w5", "max_tokens": 3} | changes
    with pytest.raises(openai.BadRequestError, match=sentence):
        client.completions.create(**request)
    assert client.completions.create(model="tiny", prompt="w5", max_tokens=1).choices


def test_malformed_bodies_unknown_models_and_wrong_keys_are_refused(client, address):
    for body in (b"", b"{", b"[]", b'"text"', b"\xff\xfe", b'{"model": "tiny"}'):
        assert post(address, body)[0] == 400
    with pytest.raises(openai.NotFoundError, match="'other' is not served"):
        client.completions.create(model="other", prompt="w5")
    with pytest.raises(openai.BadRequestError, match="messages that are not a list"):
        client.chat.completions.create(model="tiny", messages=[])
    assert post(address, b'{"model": "tiny", "prompt": "w5"}', key="wrong")[0] == 401
    assert post(address, b'{"model": "tiny", "prompt": "w5"}')[0] == 200


def test_a_port_in_use_is_refused():
    with serving.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} of 127.0.0.1 is in use"):
            serving.listen("127.0.0.1", port)
    with pytest.raises(InputError, match="choose another"):
        serving.listen("203.0.113.1", 8000)
