"""A server as a backend: what it is asked, what is made of its answers, and that they are the embedded backend's."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import CancelledError
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from api_servers import CONCURRENT, TOKENS, Fake, driftlines, named, refused, running
from tiny_models import CONTEXT, pair, save, tokenizer

from driftline.decoding.backends import connection
from driftline.decoding.backends.decoder import Job, Response
from driftline.decoding.backends.embedded import Embedded
from driftline.decoding.backends.endpoint import Endpoint
from driftline.decoding.generate import generate, settings_file
from driftline.decoding.sampler import Sampler, row_seed
from driftline.decoding.settings import GenerationSettings
from driftline.errors import InputError

SETTINGS = GenerationSettings(late="fake", temperature=0.7, top_p=0.9, samples=2, max_new_tokens=TOKENS, seed=5)
ROWS: list[dict[str, Any]] = [{"prompt": f"w{30 + i} w7"} for i in range(6)]
CHAT: list[dict[str, Any]] = [{"messages": [{"role": "user", "content": f"w{20 + i}"}]} for i in range(2)]


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between tries are short."""
    monkeypatch.setattr(connection, "_LONGEST_WAIT", 0.01)


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return Sampler(pair()[1], tokenizer())


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder."""
    return save(tmp_path_factory.mktemp("model"), pair()[1])


def asked(decoder: Any, rows: list[dict[str, Any]] = ROWS, samples: int = 2) -> list[Job]:
    prompts = [decoder.prompt(row, f"row {place}") for place, row in enumerate(rows)]
    return [Job(index, sample, prompts[index]) for index in range(len(rows)) for sample in range(samples)]


def answers(
    decoder: Any, settings: GenerationSettings = SETTINGS, rows: list[dict[str, Any]] = ROWS, samples: int = 2
) -> list[Response]:
    return [response for some in decoder.complete(asked(decoder, rows, samples), settings) for response in some]


def test_greedy_answers_are_the_embedded_backends(
    sampler: Sampler, words: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SETTINGS, temperature=0.0)
    rows = ROWS + CHAT
    wanted = answers(Embedded(sampler), settings, rows)
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    with (
        driftlines(sampler, "secret-key") as address,
        Endpoint(named(address, "tiny")) as by_text,
        Endpoint(named(address, "tiny", words)) as by_ids,
    ):
        found, found_by_ids = answers(by_text, settings, rows), answers(by_ids, settings, rows)
        assert by_text.chats
        assert by_ids.chats
    for ours in (found, found_by_ids):
        assert [(r.text, r.tokens, r.finish_reason) for r in ours] == [
            (r.text, r.tokens, r.finish_reason) for r in wanted
        ]
        if CONCURRENT:
            assert [r.ids for r in ours] == [r.ids for r in wanted]


@pytest.mark.skipif(not CONCURRENT, reason="driftline's server does not take alpha with each request")
@pytest.mark.parametrize("alpha", [0.0, 1.5, 3.0])
def test_alpha_is_sent_with_each_request(words: Path, alpha: float) -> None:
    early, late = pair()
    settings = replace(SETTINGS, temperature=0.0)
    wanted = answers(Embedded(Sampler(late, tokenizer(), early=early, alpha=alpha)), settings)
    alone = answers(Embedded(Sampler(late, tokenizer())), settings)
    assert [r.text for r in wanted] != [r.text for r in alone]
    with (
        driftlines(Sampler(late, tokenizer(), early=early, alpha=1.1)) as address,
        Endpoint(named(address, "tiny", words), alpha=alpha) as decoder,
    ):
        assert [r.ids for r in answers(decoder, settings)] == [r.ids for r in wanted]
        assert [r.ids for r in answers(decoder.late_alone(), settings)] == [r.ids for r in alone]
        assert decoder.late_alone().alpha is None


def test_each_sample_is_a_request_of_its_own(fake: Fake, words: Path) -> None:
    with running(fake.app) as address, Endpoint(named(address, tokenizer=words)) as decoder:
        found = answers(decoder, replace(SETTINGS, top_k=9))
    sent = sorted(fake.drawn(), key=lambda body: (body["prompt"], body["seed"]))
    seeds = [[row_seed(5, index, sample) for sample in range(2)] for index in range(6)]
    expected = [([30 + index, 7], seed) for index in range(6) for seed in sorted(seeds[index])]
    assert [(body["prompt"], body["seed"]) for body in sent] == expected
    common = {"temperature": 0.7, "top_p": 0.9, "top_k": 9, "min_p": 0.0, "repetition_penalty": 1.0}
    assert all(body.items() >= common.items() for body in sent)
    assert all("alpha" not in body and "vllm_xargs" not in body for body in sent)
    for place, response in enumerate(found):  # in order, and each the answer to its own request
        body = {"prompt": [30 + place // 2, 7], "seed": seeds[place // 2][place % 2], "max_tokens": TOKENS}
        assert response.ids == fake.ids(body)
        assert response.text == " ".join(f"w{token}" for token in fake.ids(body))


def test_defaults_of_the_server_are_made_neutral_where_it_takes_that(fake: Fake) -> None:
    """A server may have a top-k of the model's own: to keep all has to be said."""
    with running(fake.app) as address, Endpoint(named(address)) as decoder:
        answers(decoder)
    assert all(body["top_k"] == -1 for body in fake.drawn())
    strict = Fake(takes=frozenset(("seed",)), strict=True, most_seed=2**31 - 1)
    with running(strict.app) as address, Endpoint(named(address)) as decoder:
        found = answers(decoder)
    allowed = {"model", "prompt", "max_tokens", "temperature", "top_p", "seed"}
    assert all(body.keys() == allowed for body in strict.drawn())
    assert len({body["seed"] for body in strict.drawn()}) == 12
    assert [response.ids for response in found] == [None] * 12
    assert [response.tokens for response in found] == [TOKENS] * 12


def test_messages_go_to_chats_and_texts_to_completions(fake: Fake) -> None:
    with running(fake.app) as address, Endpoint(named(address)) as decoder:
        found = answers(decoder, rows=ROWS[:1] + CHAT[:1])
        assert decoder.chats
    # which of two requests in flight arrives first is not said
    chats, texts = ([body for body in fake.drawn() if ("messages" in body) == is_chat] for is_chat in (True, False))
    assert [body["prompt"] for body in texts] == ["w30 w7"] * 2
    assert [body["messages"] for body in chats] == [CHAT[0]["messages"]] * 2
    assert not any("prompt" in body for body in chats)
    assert all(response.text for response in found)


def test_a_server_without_chats_is_given_texts() -> None:
    fake = Fake(chats=False)
    with running(fake.app) as address, Endpoint(named(address)) as decoder:
        assert not decoder.chats
        assert answers(decoder)
        with pytest.raises(InputError, match="nothing at /v1/chat/completions"):
            decoder.prompt(CHAT[0], "row 0")


def test_answers_come_in_order_and_so_many_requests_are_in_flight(fake: Fake) -> None:

    def first_is_last(body: dict[str, Any]) -> float:
        """Until others have come, and then long enough for all that may."""
        if body["max_tokens"] != TOKENS or body["prompt"] != "w30 w7":
            return 0.005
        return 0.2 if len(fake.drawn()) > 6 else 30.0

    fake.seconds = first_is_last
    started: list[int] = []
    with running(fake.app) as address, Endpoint(named(address), batch_size=3) as decoder:
        jobs = asked(decoder, [{"prompt": f"w{30 + i} w7"} for i in range(40)])
        found: list[Response] = []
        for some in decoder.complete(jobs, SETTINGS):
            if not found:
                started.append(len(fake.drawn()))
            found += some
    assert fake.most_at_once == 3
    assert 6 < started[0] <= 4 * 3 + 3  # those behind the slow first ones went on, but not far
    bodies = [
        {"prompt": job.prompt.text, "seed": row_seed(5, job.index, job.sample), "max_tokens": TOKENS} for job in jobs
    ]
    assert [response.ids for response in found] == [fake.ids(body) for body in bodies]


def test_room_in_the_context_is_kept(fake: Fake, words: Path) -> None:
    fake.models = [{"id": "fake", "max_model_len": 20}]
    with running(fake.app) as address, Endpoint(named(address, tokenizer=words)) as decoder:
        assert decoder.context == 20
        [prompt] = [decoder.prompt({"prompt": "w5 " * 12}, "row 0,")]
        list(decoder.complete([Job(0, 0, prompt)], SETTINGS))
        assert fake.asked[-1]["max_tokens"] == 8
        with pytest.raises(InputError, match=r"row 0, has 20 tokens and the model's context is 20"):
            decoder.prompt({"prompt": "w5 " * 20}, "row 0")
    with running(Fake().app) as address, Endpoint(named(address, tokenizer=words)) as decoder:
        assert decoder.context == CONTEXT


def test_a_call_that_was_stopped_goes_on(fake: Fake, tmp_path: Path, quick: None) -> None:
    prompts, out, whole = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"w{30 + i} w7"}) + "\n" for i in range(30)))
    with running(fake.app) as address:
        settings = replace(SETTINGS, backend=named(address))
        generate(prompts, whole, settings, batch_size=4)
        fake.misbehave = lambda place, body: refused(400, "out of luck") if body.get("prompt") == "w45 w7" else None
        with pytest.raises(InputError, match=r"refuses the request \(out of luck\)"):
            generate(prompts, out, settings, batch_size=4)
        kept = out.read_text().splitlines()
        assert kept == whole.read_text().splitlines()[:30]  # everything before the prompt that failed
    fake.misbehave, before = lambda place, body: None, len(fake.drawn())  # nothing of the first call is under way now
    with running(fake.app, int(address.rsplit(":", 1)[1].split("/")[0])):
        assert generate(prompts, out, settings, batch_size=4).new_rows == 30
        assert len(fake.drawn()) - before == 30
        assert out.read_text() == whole.read_text()


def test_a_consumer_that_leaves_cancels_what_is_in_flight(fake: Fake) -> None:
    fake.seconds = lambda body: 600.0 if body["max_tokens"] == TOKENS else 0.0
    with running(fake.app) as address:
        with Endpoint(named(address), batch_size=4) as decoder:
            jobs = asked(decoder)
            waiting = decoder.complete(jobs, SETTINGS)
            ended: list[BaseException] = []

            def wait() -> None:
                try:
                    next(waiting)
                except BaseException as error:
                    ended.append(error)

            thread = threading.Thread(target=wait, daemon=True)
            thread.start()
            until = time.monotonic() + 60
            while fake.at_once < 4 and time.monotonic() < until:
                time.sleep(0.01)
            assert fake.at_once == 4
            started = time.monotonic()
        assert time.monotonic() - started < 60  # no answer was waited for
        while fake.at_once and time.monotonic() < started + 60:  # the server was told
            time.sleep(0.01)
        assert fake.at_once == 0
        thread.join(5)
        assert len(ended) == 1
        assert isinstance(ended[0], CancelledError)


def test_no_key_is_in_any_file(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "results" / "out.jsonl"
    prompts.write_text(json.dumps({"prompt": "w30 w7"}) + "\n")
    with running(fake.app) as address:
        generate(prompts, out, replace(SETTINGS, backend=named(address)))
        assert fake.keys == {"Bearer sk-very-secret"}
        by_password = named(address.replace("//", "//somebody:hidden-word@"))
        generate(prompts, out, replace(SETTINGS, backend=by_password), overwrite=True)
        assert any(key.startswith("Basic ") for key in fake.keys)
    texts = [file.read_text() for file in out.parent.iterdir()]
    assert len(texts) == 2
    assert not any(secret in text for text in texts for secret in ("sk-very-secret", "hidden-word", "somebody"))
    assert "***" not in "".join(texts)
    told = json.loads(settings_file(out).read_text())["backend"]
    assert told == {"name": "http", "endpoint": address, "model": "fake", "tokenizer": None}


def test_whole_distributions_are_asked_of_the_models_here(fake: Fake, sampler: Sampler) -> None:
    fake.heeds_alpha = True
    with running(fake.app) as address:
        with Endpoint(named(address), alpha=2.0) as decoder, pytest.raises(InputError, match="not whole distributions"):
            decoder.with_logits()
        with (
            Endpoint(named(address), alpha=2.0, sources=lambda: nullcontext(sampler)) as decoder,
            decoder.with_logits() as found,
        ):
            assert found is sampler
            with decoder.late_alone().with_logits() as late:
                assert late.late is sampler.late
                assert late.early is None
