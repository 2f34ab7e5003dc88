"""Requests that vLLM's server would answer and must not: of another alpha than they name, or without the key."""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

_Message: TypeAlias = MutableMapping[str, Any]
_Receive: TypeAlias = Callable[[], Awaitable[_Message]]
_Send: TypeAlias = Callable[[_Message], Awaitable[None]]

_App: TypeAlias = Callable[[_Message, _Receive, _Send], Awaitable[None]]

MIDDLEWARE = f"{__name__}.AlphaIsHeeded", f"{__name__}.KeyIsAsked"  # values of vLLM's `--middleware`
KEY = "VLLM_API_KEY"  # an environment variable
_READS = "GET", "HEAD", "OPTIONS"  # health, metrics and the like, which vLLM leaves open


class KeyIsAsked:
    """Middleware that asks for the key wherever something is computed: vLLM asks under `/v1` and the like alone,
    so that `/invocations` would generate, and `/generative_scoring` score, for anyone."""

    def __init__(self, app: _App) -> None:
        self._app, self._key = app, os.environ.get(KEY, "")

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        if self._key and scope["type"] == "http" and scope["method"] not in _READS:
            sent = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
            scheme, _, word = sent.partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(word.strip(), self._key.encode()):
                from starlette.responses import JSONResponse

                await JSONResponse({"error": "Unauthorized"}, 401)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class AlphaIsHeeded:
    """Middleware (`--middleware`) that refuses beam search with an alpha of its own: vLLM searches with the server's."""

    def __init__(self, app: _App) -> None:
        self._app = app

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        body = bytearray()

        async def read() -> _Message:
            message = await receive()
            if message["type"] == "http.request":
                body.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    _refuse(bytes(body))
                    body.clear()
            return message

        await self._app(scope, read if scope["type"] == "http" else receive, send)


def _refuse(body: bytes) -> None:
    if b"use_beam_search" not in body:
        return
    try:
        asked = json.loads(body)
    except ValueError:
        return  # vLLM says so
    if not isinstance(asked, dict) or not asked.get("use_beam_search"):
        return
    extra = asked.get("vllm_xargs")
    if isinstance(extra, dict) and extra.get("alpha") is not None:
        from fastapi import HTTPException  # as vLLM answers in its form

        raise HTTPException(400, "beam search is with the server's alpha: leave out alpha, or use_beam_search")
