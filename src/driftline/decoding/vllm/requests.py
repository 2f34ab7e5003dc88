"""Requests to a server of vLLM that would get another alpha than the one they name, as vLLM drops it on the way."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

_Message: TypeAlias = MutableMapping[str, Any]
_Receive: TypeAlias = Callable[[], Awaitable[_Message]]
_Send: TypeAlias = Callable[[_Message], Awaitable[None]]

MIDDLEWARE = f"{__name__}.AlphaIsHeeded"


class AlphaIsHeeded:
    """Middleware (`--middleware`) that refuses beam search with an alpha of its own: vLLM searches with the server's."""

    def __init__(self, app: Callable[[_Message, _Receive, _Send], Awaitable[None]]) -> None:
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
        from starlette.exceptions import HTTPException

        raise HTTPException(400, "beam search is with the server's alpha: leave out alpha, or use_beam_search")
