"""What a server of vLLM is kept from answering with another alpha than was asked for."""

from __future__ import annotations

import asyncio
import json

import pytest

from driftline.decoding.vllm.requests import AlphaIsHeeded

pytest.importorskip("starlette")


def answered(body: bytes, pieces: int = 1) -> int:
    """The status of an application that reads all of the body, and must find it whole, behind the middleware."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def echo(request: Request) -> PlainTextResponse:
        assert await request.body() == body
        return PlainTextResponse("well")

    app = Starlette(routes=[Route("/v1/completions", echo, methods=["POST"])])
    app.add_middleware(AlphaIsHeeded)
    size = -(-len(body) // pieces)
    waiting = [body[start : start + size] for start in range(0, len(body), size)]
    said = []

    async def receive():
        return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

    async def send(message):
        said.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": [], "query_string": b""}
    asyncio.run(app(scope, receive, send))
    if said[0]["status"] == 400:
        assert b"the server's alpha" in said[1]["body"]
    return said[0]["status"]


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
    assert answered(json.dumps(asked).encode(), pieces) == status


def test_what_is_not_json_is_left_to_vllm():
    assert answered(b"{use_beam_search") == 200
