"""An endpoint in a thread, over tiny models, and what clients of several kinds do to it."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_models import pair, tokenizer

from driftline.decoding.sampler import Sampler
from driftline.decoding.server.application import Limits, application
from driftline.decoding.server.listen import Server, listen
from driftline.decoding.server.scheduler import Scheduler


@dataclass
class Endpoint:
    """One that runs."""

    host: str
    port: int
    scheduler: Scheduler

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/v1"

    def send(self, body: Any, path: str = "completions", **headers: str) -> tuple[int, Any, Any]:
        """Status, answer (as JSON where it is) and headers of a request; a body of bytes is sent as it is."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"content-type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
        try:
            with urllib.request.urlopen(urllib.request.Request(f"{self.url}/{path}", data, sent), timeout=60) as answer:
                return answer.status, json.load(answer), answer.headers
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error), error.headers

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://{self.host}:{self.port}{path}", timeout=30) as answer:
            return answer.read().decode()

    def connect(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=30)

    def begin(self, body: dict[str, Any]) -> socket.socket:
        """A connection on which a whole request has been sent, and no answer was read."""
        data = json.dumps(body).encode()
        opened = self.connect()
        opened.sendall(head(len(data)) + data)
        return opened


def head(length: int) -> bytes:
    return (
        b"POST /v1/completions HTTP/1.1\r\nhost: here\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n" % length
    )


def sampler(**settings: Any) -> Sampler:
    early, late = pair()
    return Sampler(late, tokenizer(), early=early, alpha=1.5, **settings)


def slow(sampler: Sampler, seconds: float) -> Sampler:
    """The same whose late model takes some time for each pass, and counts them in `passes`."""
    forward, sampler.late.passes = sampler.late.forward, 0

    def dawdling(*arguments: Any, **named: Any) -> Any:
        sampler.late.passes += 1
        time.sleep(seconds)
        return forward(*arguments, **named)

    sampler.late.forward = dawdling
    return sampler


@contextmanager
def endpoint(sampler: Sampler, key: str | None = None, **limits: Any) -> Iterator[Endpoint]:
    listener = listen("127.0.0.1", 0)
    app = application(sampler, "tiny", key, Limits(**limits))
    server = Server(app, Limits(**limits), grace=0.2)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started, 30)
        yield Endpoint("127.0.0.1", listener.getsockname()[1], app.state.scheduler)
    finally:  # or a test that failed would keep the tests from ending
        server.should_exit = True
        thread.join(30)
    assert not thread.is_alive()


def wait_until(true: Callable[[], bool], seconds: float) -> float:
    """Seconds until something holds, which it must within `seconds`."""
    started = time.monotonic()
    while not true():
        if time.monotonic() - started > seconds:
            raise AssertionError(f"not within {seconds} seconds")
        time.sleep(0.005)
    return time.monotonic() - started
