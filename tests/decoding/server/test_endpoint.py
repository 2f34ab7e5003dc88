"""The endpoint, asked by the real openai client over a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import endpoints
import pytest
from endpoints import Endpoint, endpoint
from tiny_models import CONTEXT, VOCABULARY, tokenizer

from driftline.decoding.sampler import Sampler, row_seed
from driftline.decoding.server.listen import listen
from driftline.errors import InputError

openai = pytest.importorskip("openai")
AUTHORISED = {"authorization": "Bearer secret"}


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return endpoints.sampler()


@pytest.fixture(scope="module")
def served(sampler: Sampler) -> Iterator[Endpoint]:
    with endpoint(sampler, "secret") as running:
        yield running


@pytest.fixture(scope="module")
def client(served: Endpoint) -> Iterator[Any]:
    with openai.OpenAI(base_url=served.url, api_key="secret", max_retries=0) as made:
        yield made


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
        ({"prompt": []}, "prompt is an empty list"),
        ({"n": 129}, "n: "),
        ({"seed": 2**63}, "seed"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"temperature": 1e-40}, "greedy"),
        ({"logprobs": 21}, "logprobs"),
        ({"stop": ["x"] * 17}, "16 strings"),
        ({"stop": "x" * 257}, "256 characters"),
        ({"stream_options": {"include_usage": True}}, "stream_options needs stream"),
        ({"extra_body": {"alpha": 1e30}}, "alpha"),
        ({"extra_body": {"alpha": "far"}}, "alpha"),
        ({"extra_body": {"vllm_xargs": {"alpha": True}}}, "no number between"),
        ({"extra_body": {"vllm_xargs": {"beta": 1}}}, "'beta', which is not known"),
        ({"extra_body": {"vllm_xargs": {"alpha": 1.0}, "alpha": 2.0}}, "differ"),
        ({"extra_body": {"min_p": 0.1}}, "min_p is not supported"),
        ({"extra_body": {"skip_special_tokens": False}}, "skip_special_tokens is not supported"),
        ({"prompt": [[5]] * 20, "n": 100}, "more than 1024"),
    ],
)
def test_a_request_that_is_wrong_gets_a_sentence(client, changes, sentence):
    request = {"model": "tiny", "prompt": "w5", "max_tokens": 3} | changes
    with pytest.raises(openai.BadRequestError, match=sentence):
        client.completions.create(**request)
    assert client.completions.create(model="tiny", prompt="w5", max_tokens=1).choices


def test_what_changes_nothing_is_passed_over(client):
    neutral: dict[str, Any] = {
        "min_p": 0,
        "repetition_penalty": 1.0,
        "best_of": 1,
        "suffix": None,
        "user": "me",
        "logit_bias": {},
    }
    assert client.completions.create(model="tiny", prompt="w5", max_tokens=1, extra_body=neutral).choices


def test_malformed_bodies_and_unknown_models_are_refused(client, served):
    for body in (b"", b"{", b"[]", b'"text"', b"\xff\xfe", b'{"model": "tiny"}'):
        status, answer, _ = served.send(body, **AUTHORISED)
        assert (status, set(answer["error"])) == (400, {"message", "type", "param", "code"})
    with pytest.raises(openai.NotFoundError, match="'other' is not served"):
        client.completions.create(model="other", prompt="w5")
    with pytest.raises(openai.BadRequestError, match="messages that are not a list"):
        client.chat.completions.create(model="tiny", messages=[])
    with pytest.raises(openai.BadRequestError, match="top_logprobs needs logprobs"):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "w5"}], top_logprobs=2)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ("Bearer secret", 200),
        ("bearer secret", 200),
        ("BEARER  secret", 200),
        ("Bearer wrong", 401),
        ("Bearer secret2", 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        ("secret", 401),
        ("Basic secret", 401),
        ("Bearer s\u00e9cret", 401),
    ],
)
def test_a_key_is_compared_as_rfc_6750_says(served, sent, status):
    found, answer, headers = served.send({"model": "tiny", "prompt": "w5", "max_tokens": 1}, authorization=sent)
    assert found == status
    if status == 401:
        assert answer["error"]["type"] == "authentication_error"
        assert headers["www-authenticate"] == "Bearer"


def test_a_port_in_use_is_refused():
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} of 127.0.0.1 is in use"):
            listen("127.0.0.1", port)
    with pytest.raises(InputError, match="choose another"):
        listen("203.0.113.1", 8000)


def test_content_in_parts_reads_as_the_text_that_they_make():
    asked = {"model": "tiny", "max_tokens": 1, "return_token_ids": True}
    parts = [{"type": "text", "text": "w5 w6"}, {"type": "text", "text": "w7"}]
    with endpoint(endpoints.sampler()) as served:
        found = [
            served.send({**asked, "messages": [{"role": "w4", "content": content}]}, "chat/completions")[1]
            for content in ("w5 w6\nw7", parts)
        ]
    assert found[0]["prompt_token_ids"] == found[1]["prompt_token_ids"] == [4, 5, 6, 7, 9]
