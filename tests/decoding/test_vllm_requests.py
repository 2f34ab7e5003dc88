"""What a server of vLLM is kept from answering with another alpha than was asked for."""

from __future__ import annotations

import asyncio
import importlib
import json
from typing import Any

import pytest

from driftline.decoding.vllm.requests import MIDDLEWARE, AlphaIsHeeded, KeyIsAsked

pytest.importorskip("fastapi")


def answered(middleware: type, body: bytes = b"{}", pieces: int = 1, **changes: Any) -> tuple[int, bytes]:
    """Status and answer of an application that reads all of the body, and must find it whole, behind the middleware."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def echo(request: Request) -> PlainTextResponse:
        assert await request.body() == body
        return PlainTextResponse("well")

    app = Starlette(routes=[Route("/{path:path}", echo, methods=["GET", "POST"])])
    app.add_middleware(middleware)  # type: ignore[arg-type]
    size = -(-len(body) // pieces)
    waiting = [body[start : start + size] for start in range(0, len(body), size)]
    said = []

    async def receive():
        return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

    async def send(message):
        said.append(message)

    scope = {"type": "http", "method": "POST", "path": "/invocations", "headers": [], "query_string": b""} | changes
    asyncio.run(app(scope, receive, send))
    return said[0]["status"], said[1]["body"]


@pytest.mark.parametrize("pieces", [1, 7])
@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({"use_beam_search": True, "n": 2, "vllm_xargs": {"alpha": 0}}, 400),
        ({"use_beam_search": True, "vllm_xargs": {"alpha": None, "other": 1}}, 200),
        ({"use_beam_search": True, "n": 2}, 200),
        ({"use_beam_search": False, "vllm_xargs": {"alpha": 2.0}}, 200),
        ({"vllm_xargs": {"alpha": 2.0}, "prompt": "use_beam_search"}, 200),
        ({"use_beam_search": True, "vllm_xargs": [1]}, 200),
        (["use_beam_search"], 200),
    ],
)
def test_beam_search_with_an_alpha_of_its_own_is_refused(asked, status, pieces):
    found, said = answered(AlphaIsHeeded, json.dumps(asked).encode(), pieces)
    assert found == status
    assert (b"the server's alpha" in said) == (status == 400)


def test_what_is_not_json_is_left_to_vllm():
    assert answered(AlphaIsHeeded, b"{use_beam_search")[0] == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [(None, 401), (b"Bearer wrong", 401), (b"Bearer ", 401), (b"secret", 401), (b"Bearer secret", 200)],
)
def test_the_key_is_asked_for_wherever_something_is_computed(monkeypatch, sent, status):
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    headers = [] if sent is None else [(b"authorization", sent)]
    assert answered(KeyIsAsked, headers=headers)[0] == status
    assert answered(KeyIsAsked, headers=headers, method="GET", path="/health")[0] == 200


def test_without_a_key_none_is_asked_for(monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    assert answered(KeyIsAsked)[0] == 200


def test_vllm_finds_them():
    for name in MIDDLEWARE:
        module, _, named = name.rpartition(".")
        assert isinstance(getattr(importlib.import_module(module), named), type)
