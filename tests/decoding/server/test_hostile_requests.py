"""Requests made to do harm get a 4xx in OpenAI's form, and the server goes on."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator

import pytest
from endpoints import Endpoint, endpoint, sampler

from driftline.decoding.server import bodies
from driftline.decoding.server.application import MOST_BODY

GOOD = {"model": "tiny", "prompt": "w5", "max_tokens": 1}


@pytest.fixture(scope="module")
def served() -> Iterator[Endpoint]:
    with endpoint(sampler(), max_tokens=4000) as running:
        yield running


def refused(found: tuple, status: int) -> str:
    code, answer, _ = found
    assert code == status
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert len(answer["error"]["message"]) < 500
    return answer["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "tiny", "prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model": "tiny", "prompt": "w5", "x": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
        b'{"model": "tiny", "prompt": "w5", "seed": ' + b"9" * 5000 + b"}",
        b'{"model": "tiny", "prompt": "w5", "max_tokens": ' + b"9" * 5000 + b"}",
        b'{"model": "tiny", "prompt": [' + b"9" * 5000 + b"]}",
        b'{"model": "tiny", "prompt": [5, -1]}',
        b'{"model": "tiny", "prompt": [99999999999999999999999]}',
        b'{"model": "tiny", "prompt": [true, false]}',
        b'{"model": "tiny", "prompt": "\\ud800"}',
        b'{"model": "tiny", "prompt": "w5", "temperature": NaN}',
        b'{"model": "tiny", "prompt": "w5", "temperature": 1e999}',
        b'{"model": "tiny", "prompt": "w5", "top_p": Infinity}',
        b'{"model": "tiny", "prompt": "w5", "alpha": NaN}',
        b'{"model": "tiny", "prompt": "w5", "vllm_xargs": {"alpha": NaN}}',
        b'{"model": "tiny", "prompt": "w5", "stop": [[[["x"]]]]}',
        b'{"model": "tiny", "prompt": {"a": 1}}',
        b'{"model": "tiny", "prompt": "w5", "' + b"x" * 100_000 + b'": 1}',
        b'{"model": "tiny", "prompt": "w5"}{"model": "tiny"}',
        b"\x00" * 1000,
    ],
    ids=range(19),
)
def test_a_body_made_to_break_a_reader_is_refused(served, body):
    refused(served.send(body), 400)
    assert served.send(GOOD)[0] == 200


def many(value: bytes, start: bytes = b'"prompt": [', end: bytes = b"]") -> bytes:
    """A body of nearly 8 MiB that is one value again and again."""
    count = (MOST_BODY - 100) // (len(value) + 1)
    return b'{"model": "tiny", ' + start + b",".join([value] * count) + end + b"}"


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (many(b"1"), "completions"),
        (many(b"10000"), "completions"),
        (many(b"true"), "completions"),
        (many(b"null"), "completions"),
        (many(b"{}"), "completions"),
        (many(b"[]"), "completions"),
        (many(b"[7]"), "completions"),
        (many(b'""'), "completions"),
        (many(b'"w5"'), "completions"),
        (many(b"10000", b'"prompt": [[', b"]]"), "completions"),
        (many(b"1000", b'"prompt": "w5", "stop": ['), "completions"),
        (many(b'"x":{}', b'"prompt": "w5", "x": {', b"}"), "completions"),
        (many(b'"x":[{}]', b'"prompt": "w5", ', b""), "completions"),
        (many(b"1000", b'"messages": ['), "chat/completions"),
        (many(b'{"":0}', b'"messages": ['), "chat/completions"),
    ],
    ids=range(15),
)
def test_a_body_of_very_many_values_costs_little(served, body, path):
    """Each may be wrong in as many ways as the field has forms, and is told of once."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(served.send(body, path), 400)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512 * 1024


def test_the_number_of_prompts_is_looked_at_before_they_are_read(served, monkeypatch):
    monkeypatch.setattr(bodies, "encode", None)
    assert "more than 1024 prompts" in refused(served.send(GOOD | {"prompt": ["w5"] * 1025}), 400)
    assert "600 prompts times n = 2 are more" in refused(served.send(GOOD | {"prompt": ["w5"] * 600, "n": 2}), 400)


def test_nobody_is_sent_to_where_a_header_says(served):
    with served.connect() as opened:
        opened.sendall(b"GET /v1/models/ HTTP/1.1\r\nhost: elsewhere\r\n\r\n")
        assert b" 404 " in opened.recv(4096).split(b"\r\n")[0]


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "\ud800"}],
        [{"role": "user"}],
        [{"content": "w5"}],
        [{"role": 5, "content": "w5"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": 5}],
        [{"role": "user", "content": []}],
        [{"role": "user", "content": [{"type": "text"}]}],
        [
            {
                "role": "user",
                "content": [{"type": "text", "text": "w5"}, {"type": "image_url", "image_url": {"url": "x"}}],
            }
        ],
        ["w5"],
        "w5",
    ],
)
def test_messages_that_are_none_are_refused(served, messages):
    refused(served.send({"model": "tiny", "messages": messages, "max_tokens": 1}, "chat/completions"), 400)


@pytest.mark.parametrize("prompt", [["w5", [5]], [5, "w5"], [[5], "w5"], [True], [5.0], {"a": 1}])
def test_a_prompt_of_another_form_is_told_the_forms_there_are(served, prompt):
    assert "give a text, a list of texts, a list of token ids" in refused(served.send(GOOD | {"prompt": prompt}), 400)


def test_an_unknown_model_of_a_long_name_gets_a_short_answer(served):
    refused(served.send(GOOD | {"model": "m" * 100_000}), 404)


def test_a_body_that_is_too_large_is_refused_and_not_kept(served):
    body = json.dumps(GOOD | {"prompt": "w5 " * MOST_BODY}).encode()
    assert "larger than 8 MiB" in refused(served.send(body), 413)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with served.connect() as opened:  # 1 TB is announced, and none of it read
        opened.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\n")
        opened.sendall(b"content-length: 1000000000000\r\n\r\n")
        assert b" 413 " in opened.recv(4096).split(b"\r\n")[0]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
    assert served.send(GOOD)[0] == 200


def test_many_samples_of_a_long_prompt_are_refused_before_memory_is_spent(served):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    asked = GOOD | {"prompt": [[5] * 90 for _ in range(8)], "n": 128}
    assert "tokens and this server holds 4000 at once" in refused(served.send(asked), 400)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_what_a_page_of_another_origin_may_post_is_refused(served, kind):
    assert "application/json" in refused(served.send(GOOD, content_type=kind), 415)
    found = served.send(GOOD, content_type="application/json; charset=utf-8", origin="http://elsewhere")
    assert found[0] == 200
    assert "access-control-allow-origin" not in found[2]


def test_unknown_places_and_methods_have_the_same_form(served):
    refused(served.send(GOOD, "embeddings"), 404)
    refused(served.send(GOOD, "models"), 405)
