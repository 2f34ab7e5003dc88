"""Servers behind `--backend http` that are broken or mean harm: a sentence, in little time and memory."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "decoding"))

from attack import save_run
from hostile_server import Hostile, hostile, whole
from tiny_models import tokenizer

from driftline.cli import main
from driftline.decoding.backends import connection, forcing
from driftline.decoding.backends.backend import Backend
from driftline.decoding.backends.decoder import Job
from driftline.decoding.backends.endpoint import Endpoint, served
from driftline.decoding.settings import GenerationSettings
from driftline.errors import InputError

pytest.importorskip("openai")
bounds = pytest.importorskip("driftline.decoding.backends.bounds")

SETTINGS = GenerationSettings(late="m", samples=2, max_new_tokens=8)
LIST = {"object": "list", "data": [{"id": "m", "object": "model"}]}
GOOD: dict[str, Any] = {
    "choices": [{"text": "a", "finish_reason": "stop"}],
    "usage": {"completion_tokens": 1, "prompt_tokens": 1},
}
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
BOMB = gzip.compress(bytes(1 << 27))
MEBIBYTE = b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for for long."""
    monkeypatch.setattr(connection, "_LONGEST_WAIT", 0.01)
    monkeypatch.setattr(connection, "_LIST_TIMEOUT", 0.5)
    monkeypatch.setattr(connection, "_TIMEOUT", 1.0)
    monkeypatch.setattr(bounds, "_REST", 0.3)


def dripping(head: bytes) -> Iterator[bytes]:
    yield head
    while True:
        time.sleep(0.05)
        yield b"x"


def forever(head: bytes, piece: bytes) -> Iterator[bytes]:
    yield head
    yield from repeat(piece)


def nested(depth: int) -> bytes:
    return b'{"choices": ' + b"[" * depth + b"]" * depth + b"}"


def silence() -> Iterator[bytes]:
    yield b""
    time.sleep(1.2)


BODIES: dict[str, tuple[Callable[[], Any], str]] = {
    "without end": (lambda: forever(HEAD + b"\r\n", b"x" * (1 << 20)), r"more than \S+ MiB for what was asked"),
    "in chunks without end": (lambda: forever(CHUNKED, MEBIBYTE), r"more than \S+ MiB"),
    "blanks without end": (lambda: forever(HEAD + b"\r\n", b" " * (1 << 20)), r"more than \S+ MiB"),
    "a refusal without end": (
        lambda: forever(b"HTTP/1.1 400 Bad Request\r\n\r\n", b"x" * (1 << 20)),
        r"more than \S+ MiB",
    ),
    "a failure without end": (lambda: forever(b"HTTP/1.1 500 Oh\r\n\r\n", b"x" * (1 << 20)), r"more than \S+ MiB"),
    "a redirect without end": (
        lambda: forever(b"HTTP/1.1 307 Go\r\nlocation: /x\r\n\r\n", b"x" * (1 << 20)),
        r"more than \S+ MiB",
    ),
    "a byte now and then": (lambda: dripping(HEAD + b"\r\n"), "does not answer in time: look"),
    "headers now and then": (lambda: dripping(HEAD + b"x-a: "), "does not answer in time: look"),
    "headers without end": (lambda: forever(HEAD, b"x-a: b\r\n" * 1000), "cannot be reached"),
    "hints without end": (lambda: repeat(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000), "does not answer in time"),
    "nothing": (silence, "does not answer in time"),
    "short": (lambda: [HEAD + b"content-length: 100\r\n\r\n{"], "cannot be reached"),
    "no HTTP": (lambda: [b"\x00\xff" * 1000], "cannot be reached"),
    "a length below zero": (lambda: [HEAD + b"content-length: -5\r\n\r\n{}"], "cannot be reached"),
    "a length of 5,000 digits": (lambda: [HEAD + b"content-length: " + b"9" * 5000 + b"\r\n\r\n{}"], "cannot be"),
    "a wild chunk": (lambda: [CHUNKED + b"f" * 5000 + b"\r\n"], "cannot be reached"),
    "nested": (lambda: [whole(nested(100_000))], r"nested too deeply, where it begins with '\{"),
    "a number of 5,000 digits": (lambda: [whole(b'{"choices": [' + b"9" * 5000 + b"]}")], "digits"),
    "half a character": (lambda: [whole(b'{"choices": [{"text": "\\ud800"}]}')], "half of a surrogate pair"),
    "not UTF-8": (lambda: [whole(b'{"choices": \xff\xfe}')], "as OpenAI's API does"),
    "packed": (
        lambda: [whole(BOMB, "200 OK", "content-encoding: gzip")],
        "a body packed as 'gzip', which nobody asked for",
    ),
    "text that is packed": (
        lambda: [whole(BOMB, "200 OK", "content-type: a/b; charset=zlib")],
        "as OpenAI's API does",
    ),
    "a refusal that is packed": (
        lambda: [whole(BOMB, "400 No", "content-encoding: gzip")],
        "packed as 'gzip'",
    ),
    "nothing at all": (lambda: [whole(b"")], "an empty answer"),
    "a page": (lambda: [whole(b"<html>", "200 OK", "content-type: text/html")], "a web page"),
    "a refusal that is nested": (lambda: [whole(nested(100_000), "400 No")], "refuses the request"),
    "a refusal for a terminal": (lambda: [whole(b"\x1b[2J" * 10_000, "400 No")], "refuses the request"),
    "another protocol": (lambda: [whole(b"", "101 Switching")], "cannot be reached"),
    "another place": (
        lambda: [whole(b"", "307 There", "location: http://127.0.0.1:9/v1")],
        r"sends elsewhere \(http://127.0.0.1:9/v1\), where neither request nor key follow",
    ),
    "no place": (lambda: [whole(b"", "302 Where", "location: http://[\xff")], "sends elsewhere"),
    "a place with a password": (
        lambda: [whole(b"", "308 There", "location: http://u:hidden@h/")],
        r"sends elsewhere \(http://h/\)",
    ),
}


def answers(decoder: Endpoint) -> list[Any]:
    jobs = [Job(0, sample, decoder.prompt({"prompt": "w5"}, "row 0")) for sample in range(2)]
    return [response for some in decoder.complete(jobs, SETTINGS) for response in some]


def sentence(running: Hostile) -> str:
    with Endpoint(Backend("http", running.address, "m")) as decoder, pytest.raises(InputError) as caught:
        answers(decoder)
    said = str(caught.value)
    assert running.address in said
    assert len(said) < 900
    assert "\n" not in said
    return said


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("listed", [False, True], ids=["at once", "when asked for an answer"])
def test_what_no_server_should_send(name: str, listed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    make, expected = BODIES[name]
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    began = time.monotonic()

    def answer(path: str) -> Any:
        return [whole(LIST)] if listed and path.endswith("/models") else make()

    with hostile(answer) as running:
        said = sentence(running)
    assert re.search(expected, said), said
    assert not any(secret in said for secret in ("hidden", "very-secret"))
    assert running.sent < 64 << 20
    assert time.monotonic() - began < 30


def test_the_key_goes_to_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    with hostile(lambda path: [whole(LIST)]) as other:
        to = f"location: {other.address}/models"
        with hostile(lambda path: [whole(b"", "307 There", to)]) as running:
            assert "sends elsewhere" in sentence(running)
    assert not other.heads
    assert all("sk-very-secret" in head for head in running.heads)


ANYTHING: tuple[Any, ...] = (
    None,
    True,
    -1,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\u202e",
    [],
    [[]],
    {},
    {"a": 1},
    [None],
)


@pytest.mark.parametrize("value", ANYTHING, ids=range(len(ANYTHING)))
def test_values_of_other_kinds_are_a_sentence_or_an_answer(value: Any) -> None:
    """Wherever they stand."""

    def spoiled(answer: Any, path: tuple[Any, ...]) -> Any:
        copied = json.loads(json.dumps(answer))
        place = copied
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        return copied

    chat = {"message": {"content": "a"}, "finish_reason": "stop", "token_ids": [5], "logprobs": {"top_logprobs": []}}
    told = {**GOOD, "choices": [{**GOOD["choices"][0], **chat}]}
    paths: list[tuple[Any, ...]] = [("choices",), ("choices", 0), ("usage",), ("usage", "completion_tokens")]
    paths += [("choices", 0, key) for key in (*told["choices"][0], "text")]
    paths += [("choices", 0, "message", "content"), ("choices", 0, "token_ids", 0)]
    now: dict[str, Any] = {}

    def answer(path: str) -> Any:
        return [whole(now["list"] if path.endswith("/models") else now["answer"])]

    with hostile(answer) as running:
        backend = Backend("http", running.address, "m")
        for path in paths:
            now = {"list": LIST, "answer": spoiled(told, path)}
            ended(backend, alpha=1.5)
            ended(backend)
        for keys in [
            ("data",),
            ("data", 0),
            ("data", 0, "id"),
            *(("data", 0, key) for key in ("max_model_len", "driftline", "root")),
        ]:
            now = {"list": spoiled(LIST, keys), "answer": GOOD}
            ended(backend)
            with contextlib.suppress(InputError):  # it lists others only
                assert json.dumps(served(backend)).startswith('{"served": {"m": {')


def ended(backend: Backend, alpha: float | None = None) -> None:
    """Answers of the right kinds, or a sentence."""
    with Endpoint(backend, alpha=alpha) as decoder:
        try:
            found = answers(decoder)
        except InputError:
            return
    for response in found:
        assert isinstance(response.text, str)
        assert 0 <= response.tokens < 2**31
        assert response.ids is None or all(0 <= token < 2**31 for token in response.ids)


@pytest.mark.parametrize("value", ANYTHING, ids=range(len(ANYTHING)))
def test_log_probs_of_other_kinds_are_none(value: Any) -> None:
    body = {"prompt": [5, 6, 7]}
    usage = {"prompt_tokens": 3}
    spoiled: list[dict[str, Any]] = [
        {"prompt_logprobs": value},
        {"prompt_logprobs": [None, value, {"7": {"logprob": -1}}]},
        {"prompt_logprobs": [None, {"6": value}, {"7": {"logprob": -1}}]},
        {"prompt_logprobs": [None, {"6": {"logprob": value}}, {"7": {"logprob": -1}}]},
        {"logprobs": value, "usage": usage},
        {"logprobs": {"token_logprobs": value}, "usage": usage},
        {"logprobs": {"token_logprobs": [None, value, -1]}, "usage": usage},
        {"logprobs": {"token_logprobs": [None, -1, -1]}, "usage": value},
    ]
    for answer in spoiled:
        found = forcing._values(answer, body)
        assert found is None or (found[1:] <= 0).all()


def test_an_answer_to_more_tokens_may_be_longer() -> None:
    texts = {8: "x" * (2 << 20), 9000: "x" * (2 << 20)}
    for tokens, text in texts.items():
        body = {"prompt": "w5", "max_tokens": tokens}
        answer = {"choices": [{"text": text}]}
        with hostile(lambda path, answer=answer: [whole(answer)]) as running:  # type: ignore[misc]
            opened = connection.Connection(Backend("http", running.address, "m"))
            try:
                assert opened.post("/completions", body)["text"] == text
                assert tokens == 9000
            except InputError:
                assert tokens == 8
            finally:
                opened.close()


def test_one_that_keeps_the_connection_open_with_blanks_is_waited_for() -> None:
    """As some do while an answer is generated."""

    def slowly(path: str) -> Iterator[bytes]:
        body = whole(LIST if path.endswith("/models") else GOOD)
        head, _, rest = body.partition(b"\r\n\r\n")
        yield head.replace(b"content-length: %d" % len(rest), b"connection: close") + b"\r\n\r\n"
        for _ in range(4 if "completions" in path else 0):
            time.sleep(0.15)
            yield b"\n"
        yield rest

    with hostile(slowly) as running, Endpoint(Backend("http", running.address, "m")) as decoder:
        assert [response.text for response in answers(decoder)] == ["a", "a"]


COMMANDS = {
    "generate": "generate --prompts {prompts} --out {out}.jsonl",
    "evaluate": "evaluate --task sums --problems 2 --out {out}",
    "sweep": "sweep {run} --checkpoints all --task sums --problems 2 --out {out}",
    "rollouts": "rollouts --prompts {prompts} --out {out}.jsonl",
    "logprobs": "logprobs {run} --rollouts {rows} --out {out}",
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("mode", ["without end", "nested", "another place"])
def test_commands_say_it_in_one_sentence(
    name: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "w5"}\n')
    (tmp_path / "rows.jsonl").write_text('{"prompt_ids": [5], "response_ids": [6, 7]}\n')
    tokenizer().save_pretrained(save_run(tmp_path / "run") / "checkpoint-20")
    places = {
        "prompts": tmp_path / "prompts.jsonl",
        "rows": tmp_path / "rows.jsonl",
        "run": tmp_path / "run",
        "out": tmp_path / "out",
    }
    model = "m{step}" if name in ("sweep", "logprobs") else "m"
    listed = [{"id": f"m{step}"} for step in (0, 10, 20)] + LIST["data"]  # type: ignore[operator]

    def answer(path: str) -> Any:
        return [whole({"data": listed})] if path.endswith("/models") else BODIES[mode][0]()

    with hostile(answer) as running:
        words = COMMANDS[name].format(**places).split()
        words += ["--backend", "http", "--endpoint", running.address, "--model", model]
        monkeypatch.setattr(sys, "argv", ["driftline", *words])
        with pytest.raises(SystemExit) as stopped:
            main()
    *_, said = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2, said
    assert said.startswith(f"driftline: {running.address} ")
    assert not list(tmp_path.glob("out*"))
