"""Ten thousand requests of every kind, one after another and at once: nothing grows, and nothing but what should is refused."""

from __future__ import annotations

import gc
import http.client
import json
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from endpoints import Endpoint, endpoint, sampler, wait_until

REQUESTS, CLIENTS = 10_000, 8
BODIES: list[tuple[Any, int]] = [
    ({"model": "tiny", "prompt": "w5 w7", "max_tokens": 2}, 200),
    ({"model": "tiny", "prompt": [5, 7], "max_tokens": 1, "logprobs": 2, "echo": True}, 200),
    ({"model": "tiny", "messages": [{"role": "user", "content": "w5"}], "max_tokens": 1}, 200),
    ({"model": "tiny", "prompt": "w5", "max_tokens": 3, "stream": True, "n": 2}, 200),
    ({"model": "tiny", "prompt": [], "max_tokens": 1}, 400),
    ({"model": "tiny", "prompt": "w5 \ud800", "max_tokens": 1}, 400),
    ({"model": "other", "prompt": "w5"}, 404),
    (b'{"model": ', 400),
    (b"[" * 5000, 400),
    ("hang up", 0),
]


def memory() -> float:
    """MiB that this process holds."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def client(served: Endpoint, first: int, last: int) -> Counter[tuple[int, int]]:
    """Send some of them over one connection; how often each kind had which status."""
    connection = http.client.HTTPConnection(served.host, served.port, timeout=120)
    found: Counter[tuple[int, int]] = Counter()
    for k in range(first, last):
        kind = k % len(BODIES)
        body = BODIES[kind][0]
        if body == "hang up":
            served.begin({"model": "tiny", "prompt": "w5", "max_tokens": 90}).close()
            found[kind, 0] += 1
            continue
        path = "/v1/chat/completions" if isinstance(body, dict) and "messages" in body else "/v1/completions"
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, sent, {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        found[kind, answer.status] += 1
    connection.close()
    return found


@pytest.mark.slow
def test_ten_thousand_requests_leave_nothing_behind() -> None:
    with endpoint(sampler(), max_batch=16) as served, ThreadPoolExecutor(CLIENTS) as pool:

        def send(first: int, last: int) -> Counter[tuple[int, int]]:
            edges = [first + (last - first) * k // CLIENTS for k in range(CLIENTS + 1)]
            return sum(pool.map(lambda k: client(served, edges[k], edges[k + 1]), range(CLIENTS)), Counter())

        found = send(0, REQUESTS // 5)
        wait_until(lambda: served.scheduler.decoding == 0, 30)
        early = memory()
        found += send(REQUESTS // 5, REQUESTS)
        wait_until(lambda: served.scheduler.decoding == 0, 30)
        assert served.scheduler.queued == 0
        assert not served.scheduler._owners
        assert memory() - early < 24
        assert served.send({"model": "tiny", "prompt": "w5", "max_tokens": 1})[0] == 200
    assert found.total() == REQUESTS
    assert set(found) == {(kind, status) for kind, (_, status) in enumerate(BODIES)}
