"""Servers that fail, refuse, or pass over in silence what they were asked: one sentence each, or another try."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from api_servers import Fake, driftlines, named, page, refused, running
from test_http_backend import ROWS, SETTINGS, answers
from tiny_models import pair, tokenizer

from driftline.decoding.backends import connection
from driftline.decoding.backends.backend import Backend
from driftline.decoding.backends.decoder import Job
from driftline.decoding.backends.endpoint import Endpoint, served
from driftline.decoding.backends.opening import open_decoder, scorer
from driftline.decoding.generate import generate
from driftline.decoding.sampler import Sampler
from driftline.decoding.server.application import application
from driftline.errors import InputError


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between tries are short."""
    monkeypatch.setattr(connection, "_LONGEST_WAIT", 0.01)


def sentence_of(fake: Fake, **more: Any) -> str:
    """What using a server ends in."""
    with running(fake.app) as address, Endpoint(named(address), **more) as decoder:
        with pytest.raises(InputError) as caught:
            answers(decoder)
        assert address in str(caught.value)
        return str(caught.value)


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_what_may_pass_is_asked_again(quick: None, status: int) -> None:
    whole, faulty = Fake(), Fake()
    faulty.misbehave = lambda place, body: refused(status, "busy") if place % 3 else None
    found = []
    for fake in (whole, faulty):
        with running(fake.app) as address, Endpoint(named(address)) as decoder:
            found.append(answers(decoder))
    assert found[0] == found[1]
    assert len(faulty.asked) > 15


def test_the_wait_that_a_server_asks_for_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    times: list[float] = []

    def first_is_busy(place: int, body: dict[str, Any]) -> Any:
        times.append(time.monotonic())
        return refused(429, "busy", retry_after="1.2") if len(times) == 1 else None

    with running(Fake(misbehave=first_is_busy).app) as address, Endpoint(named(address)) as decoder:
        decoder.prompt(ROWS[0], "row 0")
    assert times[1] - times[0] >= 1.2
    dated = {"retry-after": "Wed, 21 Oct 2065 07:28:00 GMT"}
    assert connection._asked_wait(dated) == connection._LONGEST_ASKED
    assert connection._asked_wait({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert connection._asked_wait({"retry-after": "soon"}) is connection._asked_wait({}) is None
    assert connection._asked_wait({"retry-after": "nan"}) is None


def test_waits_grow_and_are_spread() -> None:
    waits = [[connection._backoff(failed) for _ in range(50)] for failed in range(1, 12)]
    for failed, some in enumerate(waits):
        most = min(0.5 * 2**failed, 30)
        assert most / 2 <= min(some) < max(some) <= most


@pytest.mark.parametrize(
    ("response", "sentence"),
    [
        (lambda: refused(503, "the queue is full"), r"answered 503 \d times in a row \(the queue is full\)"),
        (lambda: refused(401, "no such key"), r"asks for a key \(no such key\): put the right one into OPENAI_API_KEY"),
        (lambda: refused(400, "too long"), r"refuses the request \(too long\)"),
        (lambda: refused(501, "not built in"), r"refuses the request \(not built in\)"),
        (lambda: page(200), "does not answer as OpenAI's API does .a web page."),
        (lambda: page(404), "has nothing at /v1/completions: give the address"),
        (lambda: page(502), r"answered 502 \d times in a row \(a web page\)"),
        (lambda: {"hello": "world"}, "an answer without choices"),
        (lambda: {"choices": []}, "an answer without choices"),
        (lambda: {"choices": None}, "an answer without choices"),
        (lambda: ["hello"], "an answer without choices"),
        (lambda: {"choices": [{"text": "a", "finish_reason": "stop"}]}, "tells neither the tokens nor the usage"),
    ],
)
def test_a_server_that_fails_for_good_is_one_sentence(quick: None, response: Any, sentence: str) -> None:
    said = sentence_of(Fake(misbehave=lambda place, body: response()))
    assert "\n" not in said
    assert re.search(sentence, said)


def test_an_answer_that_goes_wrong_later_is_a_sentence_too(quick: None) -> None:
    for change, sentence in (
        ({"finish_reason": "abort"}, "for the reason 'abort'"),
        ({"token_ids": None}, "how many tokens"),
    ):
        fake = Fake()
        broken = {"choices": [{"text": "a", "finish_reason": "stop", "token_ids": [3]} | change]}
        fake.misbehave = lambda place, body, broken=broken: broken if place > 3 else None  # type: ignore[misc]
        assert sentence in sentence_of(fake)


def test_the_key_is_in_no_sentence(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    said = sentence_of(Fake(misbehave=lambda place, body: refused(401, "Incorrect API key provided: sk-very-secret")))
    assert "refuses the key" in said
    assert "sk-very-secret" not in said
    with Endpoint(Backend("http", "http://user:hidden@127.0.0.1:9/v1", "m")) as decoder:
        with pytest.raises(InputError, match="cannot be reached") as caught:
            decoder.prompt(ROWS[0], "row 0")
        assert "hidden" not in str(caught.value)
    for address in ("http://host/v1?key=hidden", "http://host/v1#hidden"):
        with pytest.raises(InputError, match="has a query") as caught:
            Endpoint(Backend("http", address, "m"))
        assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("address", ["localhost:8000", "ftp://host/v1", "http://", "http://host:port/v1", "", "//host"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="is no address"):
        Endpoint(Backend("http", address, "m"))


def test_a_model_that_the_server_lacks_is_named_with_those_it_has(quick: None) -> None:
    with (
        running(Fake().app) as address,
        Endpoint(named(address, "fakes")) as decoder,
        pytest.raises(InputError, match=r"no model 'fakes': choose fake, other for --model"),
    ):
        answers(decoder)


def test_a_place_for_a_step_is_filled_or_refused() -> None:
    fake = Fake(models=[{"id": "run-200"}])
    with running(fake.app) as address:
        with Endpoint(named(address, "run-{step}"), step=200) as decoder:
            answers(decoder)
        assert {body["model"] for body in fake.asked} == {"run-200"}
        with pytest.raises(InputError, match="has a place for a step, and one model is asked"):
            Endpoint(named(address, "run-{step}"))
        with pytest.raises(InputError, match=r"one for each step: write \{step\}"):
            Endpoint(named(address, "run-200"), step=200)
        with pytest.raises(InputError, match="one for each step"):
            scorer(named(address, "run-200"), "auto")


def test_a_dtype_is_not_the_clients() -> None:
    settings = replace(SETTINGS, backend=named("http://localhost:1/v1"), dtype="float32")
    with pytest.raises(InputError, match="--dtype float32 is of models that run here"), open_decoder(settings):
        pass


def test_a_seed_that_a_server_has_no_room_for_is_cut(quick: None) -> None:
    fake = Fake(most_seed=2**32)
    with running(fake.app) as address, Endpoint(named(address)) as decoder:
        answers(decoder)
    assert len({body["seed"] for body in fake.drawn()}) == 12


def test_top_k_is_refused_where_it_would_not_be_heeded(quick: None) -> None:
    settings = replace(SETTINGS, top_k=5)
    silent = Fake(takes=frozenset(("seed",)))
    strict = Fake(takes=frozenset(("seed",)), strict=True)
    for fake, sentence in ((silent, "passes over top_k"), (strict, "takes no top_k")):
        with running(fake.app) as address, Endpoint(named(address)) as decoder:
            with pytest.raises(InputError, match=sentence):
                answers(decoder, settings)
            assert answers(decoder)  # without one there is nothing to heed
    with running(Fake().app) as address, Endpoint(named(address)) as decoder:
        assert answers(decoder, settings)


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("told", [True, False])
def test_a_server_that_passes_over_alpha_is_refused(quick: None, noise: float, told: bool) -> None:
    """Also where answers to the same request differ a little, as in half precision, and where log-probs are refused."""

    def without(place: int, body: dict[str, Any]) -> Any:
        return refused(400, "logprobs is not supported") if "logprobs" in body and not told else None

    assert "answers alike whatever alpha is" in sentence_of(Fake(misbehave=without, noise=noise), alpha=1.5)
    heeding = Fake(misbehave=without, heeds_alpha=True)
    with running(heeding.app) as address, Endpoint(named(address), alpha=1.5) as decoder:
        assert answers(decoder)
        assert {(body["alpha"], body["vllm_xargs"]["alpha"]) for body in heeding.drawn()} == {(1.5, 1.5)}
        answers(decoder.late_alone())
        assert {body["alpha"] for body in heeding.drawn()[12:]} == {1.0}


def test_a_server_that_refuses_alpha_is_refused(quick: None) -> None:
    fake = Fake(strict=True)
    assert "does not take alpha: serve both checkpoints" in sentence_of(fake, alpha=1.5)
    only = Fake(strict=True, heeds_alpha=True, takes=frozenset(("seed", "vllm_xargs", "return_token_ids")))
    with running(only.app) as address, Endpoint(named(address), alpha=1.5) as decoder:
        answers(decoder)
    assert all(body["vllm_xargs"] == {"alpha": 1.5} and "alpha" not in body for body in only.drawn())


def test_one_model_of_driftlines_own_server_has_no_alpha(quick: None) -> None:
    with (
        driftlines(Sampler(pair()[1], tokenizer())) as address,
        Endpoint(named(address, "tiny"), alpha=1.5) as decoder,
        pytest.raises(InputError, match="alpha"),
    ):
        answers(decoder)
    with pytest.raises(InputError, match="--alpha is nan"):
        Endpoint(named("http://localhost:1/v1"), alpha=float("nan"))


def test_a_server_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_TIMEOUT", 0.2)
    said = sentence_of(Fake(seconds=lambda body: 5.0))
    assert "does not answer in time" in said


def test_a_server_that_comes_back_with_another_model_of_the_same_name_is_noticed() -> None:
    early, late = pair()
    with driftlines(Sampler(early, tokenizer())) as address:
        decoder = Endpoint(named(address, model="tiny"))
        asked = [Job(0, 0, decoder.prompt(ROWS[0], "row 0"))]
        assert [answer.ids for answers in decoder.complete(asked, SETTINGS) for answer in answers]
        former = served(named(address, model="tiny"))
    port = int(address.rsplit(":", 1)[1].split("/")[0])
    with decoder, running(application(Sampler(late, tokenizer()), "tiny"), port):
        with pytest.raises(InputError, match="started anew with another model, also called 'tiny'"):
            list(decoder.complete(asked, SETTINGS))
        assert served(named(address, model="tiny")) != former


def test_samples_of_another_model_of_the_same_name_are_not_continued(tmp_path: Path) -> None:
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    prompts.write_text('{"prompt": "w5"}\n{"prompt": "w6"}\n')
    fake = Fake(models=[{"id": "fake", "root": "/models/one", "created": 1}])
    with running(fake.app) as address:
        settings = replace(SETTINGS, late="fake", backend=named(address), samples=1)
        generate(prompts, out, settings)
        first = out.read_text().splitlines(keepends=True)
        out.write_text(first[0])
        fake.models[0] |= {"created": 2}
        assert generate(prompts, out, settings).new_rows == 1
        assert out.read_text().splitlines(keepends=True) == first
        out.write_text(first[0])
        fake.models[0] |= {"root": "/models/two"}
        with pytest.raises(InputError, match=r"made with other settings \(served .*/models/one"):
            generate(prompts, out, settings)
