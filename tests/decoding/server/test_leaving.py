"""Clients that hang up, wait, or ask for more than there is; and what the server says of itself."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from endpoints import Endpoint, endpoint, head, sampler, slow, wait_until

from driftline.decoding.sampler import Sampler
from driftline.decoding.server.application import Limits
from driftline.errors import InputError

LONG = {"model": "tiny", "prompt": "w5", "max_tokens": 90, "temperature": 0}


@pytest.fixture(scope="module")
def unhurried() -> Sampler:
    """About a tenth of a second for a token: a long request takes eight seconds."""
    return slow(sampler(lookahead=1), 0.1)


@pytest.fixture
def served(unhurried: Sampler) -> Iterator[Endpoint]:
    with endpoint(unhurried, max_batch=4, max_queue=2) as running:
        yield running


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_frees_its_rows_within_ten_passes(served, unhurried, stream):
    opened = served.begin(LONG | {"n": 3, "stream": stream})
    wait_until(lambda: served.scheduler.decoding == 3, 10)
    if stream:
        found = b""
        while b"data: " not in found:
            found += opened.recv(4096)
    opened.close()
    before = unhurried.late.passes
    wait_until(lambda: served.scheduler.decoding == 0, 30)
    assert unhurried.late.passes - before < 10
    wait_until(lambda: not served.scheduler._batch.rows, 1)  # nor is memory held
    assert served.send(LONG | {"max_tokens": 1})[0] == 200


def test_a_client_that_hangs_up_while_it_waits_is_forgotten(served, unhurried):
    first = [served.begin(LONG) for _ in range(4)]
    wait_until(lambda: served.scheduler.decoding == 4, 10)
    second = served.begin(LONG)
    wait_until(lambda: served.scheduler.queued == 1, 5)
    second.close()
    before = unhurried.late.passes
    wait_until(lambda: served.scheduler.queued == 0, 30)
    assert unhurried.late.passes - before < 10
    assert served.scheduler.decoding == 4
    for opened in first:
        opened.close()
    wait_until(lambda: served.scheduler.decoding == 0, 2)


def test_more_requests_than_may_wait_are_told_to_come_again(served):
    opened = [served.begin(LONG) for _ in range(4)]
    wait_until(lambda: served.scheduler.decoding == 4, 10)
    opened += [served.begin(LONG) for _ in range(2)]
    wait_until(lambda: served.scheduler.queued == 2, 5)
    status, answer, headers = served.send(LONG)
    assert status == 503
    assert int(headers["retry-after"]) >= 1
    assert "2 requests wait already" in answer["error"]["message"]
    assert json.loads(served.get("/health")) == {"status": "ok"}
    for connection in opened:
        connection.close()
    wait_until(lambda: not served.scheduler.decoding and not served.scheduler.queued, 2)
    assert served.send(LONG | {"max_tokens": 1})[0] == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_takes_too_long_is_ended(unhurried, stream):
    with endpoint(unhurried, timeout=1.0) as running:
        if stream:
            with running.begin(LONG | {"stream": True}) as opened:
                found = b""
                while b"[DONE]" not in found:
                    found += opened.recv(65536)
            assert b"more than 1 seconds" in found
        else:
            status, answer, _ = running.send(LONG)
            assert status == 504
            assert "more than 1 seconds" in answer["error"]["message"]
        wait_until(lambda: running.scheduler.decoding == 0, 1)


def test_what_never_fits_is_refused_and_what_does_not_fit_now_waits(unhurried):
    with endpoint(unhurried, max_tokens=90) as running, ThreadPoolExecutor(2) as pool:
        status, answer, _ = running.send(LONG | {"prompt": [5] * 30, "n": 4})
        assert (status, "are 120 tokens and this server holds 90" in answer["error"]["message"]) == (400, True)
        status, answer, _ = running.send(LONG)
        assert (status, "are 91 tokens and this server holds 90" in answer["error"]["message"]) == (400, True)
        answers = [pool.submit(running.send, LONG | {"max_tokens": 8}) for _ in range(2)]
        wait_until(lambda: running.scheduler.queued == running.scheduler.decoding == 1, 5)
        assert [answer.result()[0] for answer in answers] == [200, 200]


def test_half_a_request_is_not_waited_for(unhurried):
    with endpoint(unhurried, read_timeout=0.5) as running:
        silent, half_head, half_body = (running.connect() for _ in range(3))
        half_head.sendall(b"POST /v1/completions HTTP/1.1\r\nhost:")
        half_body.sendall(head(1000) + b'{"model": ')
        assert silent.recv(100) == b""
        assert half_head.recv(100) == b""
        answer = half_body.recv(4096)
        assert b" 408 " in answer.split(b"\r\n")[0]
        for opened in (silent, half_head, half_body):
            opened.close()


def test_a_second_request_of_a_connection_is_not_waited_for_either(unhurried):
    with endpoint(unhurried, read_timeout=0.5) as running, running.connect() as opened:
        opened.sendall(b"GET /health HTTP/1.1\r\nhost: here\r\n\r\n")
        assert b" 200 " in opened.recv(4096)
        opened.sendall(b"GET /health HT")
        time.sleep(0.1)
        opened.settimeout(5)
        rest = opened.recv(4096)
        while rest:
            assert b" 200 " not in rest
            rest = opened.recv(4096)


def test_a_model_that_fails_fails_its_requests_only(capfd):
    broken = sampler()
    forward, failing = broken.late.forward, True

    def fail(*arguments, **named):
        if failing:
            raise RuntimeError("not enough memory: you tried to allocate 5 bytes\nand more")
        return forward(*arguments, **named)

    broken.late.forward = fail
    with endpoint(broken) as running:
        status, answer, _ = running.send(LONG)
        assert (status, "not enough memory" in answer["error"]["message"]) == (500, True)
        failing = False
        assert running.send(LONG)[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_metrics_count_what_was_asked(unhurried):
    with endpoint(unhurried) as running:
        running.send(LONG | {"max_tokens": 2, "n": 2})
        running.send(LONG | {"n": 0})
        found = dict(line.rsplit(" ", 1) for line in running.get("/metrics").splitlines() if line[:1] != "#")
    assert float(found['driftline_requests_total{endpoint="/v1/completions",status="200"}']) == 1
    assert float(found['driftline_requests_total{endpoint="/v1/completions",status="400"}']) == 1
    assert float(found['driftline_tokens_total{kind="prompt"}']) == 1
    assert float(found['driftline_tokens_total{kind="completion"}']) == 4
    assert float(found["driftline_batch_rows"]) == float(found["driftline_queued_requests"]) == 0
    assert float(found['driftline_request_seconds_count{endpoint="/v1/completions"}']) == 2


def test_the_server_ends_soon_whatever_is_open(unhurried):
    with endpoint(unhurried) as running:
        opened: list[socket.socket] = [running.begin(LONG | {"stream": True}), running.begin(LONG)]
        for _ in range(50):
            opened.append(running.connect())
            opened[-1].sendall(head(1000) + b"{")
        wait_until(lambda: running.scheduler.decoding == 2, 10)
        started = time.monotonic()
    assert time.monotonic() - started < 2
    stream, whole = (b"".join(iter(partial(one.recv, 65536), b"")) for one in opened[:2])
    assert b"the server stops" in stream
    assert b" 503 " in whole.split(b"\r\n")[0]
    assert b"is about to stop" in opened[2].recv(65536)  # the rest of a body would come to nothing
    for connection in opened:
        connection.close()


@pytest.mark.parametrize("wrong", [{"max_batch": 0}, {"max_queue": 0}, {"max_tokens": 0}, {"timeout": 0.0}])
def test_limits_that_are_none_are_refused(wrong):
    with pytest.raises(InputError, match="is 0"):
        Limits(**wrong)
