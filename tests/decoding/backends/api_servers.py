"""Servers in a thread of the test: driftline's own, and one that behaves as others do, or worse."""

from __future__ import annotations

import asyncio
import importlib.util
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

pytest.importorskip("openai")
uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")

from driftline.decoding.backends.backend import Backend  # noqa: E402
from driftline.decoding.sampler import Sampler  # noqa: E402

CONCURRENT = importlib.util.find_spec("driftline.decoding.server") is not None
"""Whether driftline's server tells token ids and log-probs, and takes alpha with each request."""


@contextmanager
def running(app: Any, port: int = 0) -> Iterator[str]:
    """The address of an application that runs."""
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join(20)
    assert not thread.is_alive()


@contextmanager
def driftlines(sampler: Sampler, key: str | None = None) -> Iterator[str]:
    """driftline's own server, of the model `tiny`."""
    if CONCURRENT:
        name = "driftline.decoding.server.application"
        with running(importlib.import_module(name).application(sampler, "tiny", key)) as address:
            yield address
        return
    with running(importlib.import_module("driftline.decoding.serve").application(sampler, "tiny", key)) as address:
        yield address


@dataclass
class Fake:
    """A server whose text is made from what it is asked, so that every request has an answer of its own.

    Attributes:
        takes: parameters that it knows besides OpenAI's; others are passed over, or with `strict` refused.
        misbehave: asked first, with how many requests came before; a response that it gives is sent.
        token_ids: whether answers hold them, where asked for.
        echoes: whether log-probs of prompts are told by `echo`.
        least_seed, most_seed: other seeds are refused.
    """

    takes: frozenset[str] = frozenset(("seed", "return_token_ids", "top_k", "min_p", "repetition_penalty"))
    strict: bool = False
    heeds_alpha: bool = False
    misbehave: Callable[[int, dict[str, Any]], Any] = lambda count, body: None
    seconds: Callable[[dict[str, Any]], float] = lambda body: 0.0
    most_seed: int = 2**63 - 1
    usage: bool = True
    chats: bool = True
    finish_reason: str = "length"
    noise: float = 0.0
    scores: str = ""  # prompt_logprobs, echo, or neither
    models: list[dict[str, Any]] = field(default_factory=lambda: [{"id": "fake"}, {"id": "other"}])
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    at_once: int = 0
    most_at_once: int = 0

    def ids(self, body: dict[str, Any]) -> list[int]:
        """The tokens of an answer."""
        greedy = body.get("temperature") == 0 or ("top_k" in self.takes and body.get("top_k") == 1)
        alpha = self.alpha(body) if self.heeds_alpha else None
        key = (str(body.get("prompt") or body.get("messages")), 0 if greedy else body.get("seed"), alpha and alpha > 2)
        draw = random.Random(repr(key))
        return [draw.randrange(3, 2000) for _ in range(min(body.get("max_tokens", 16), 40))]

    def alpha(self, body: dict[str, Any]) -> float:
        return float((body.get("vllm_xargs") or {}).get("alpha", body.get("alpha", 1.0)))

    def choice(self, body: dict[str, Any], *, chat: bool) -> dict[str, Any]:
        ids = self.ids(body)
        text = " ".join(f"w{token}" for token in ids)
        said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        found: dict[str, Any] = {"index": 0, **said, "finish_reason": self.finish_reason, "logprobs": None}
        if body.get("return_token_ids") and "return_token_ids" in self.takes:
            found["token_ids"] = ids
        if body.get("logprobs") is not None and not chat:
            moved = self.alpha(body) * 0.001 if self.heeds_alpha else 0.0
            top = {"a": -1.0 + moved + random.uniform(-1, 1) * self.noise, "b": -2.0}
            found["logprobs"] = {"top_logprobs": [top], "tokens": ["a"], "token_logprobs": [-1.0]}
        prompt: Any = body.get("prompt")
        if body.get("prompt_logprobs") is not None and self.scores == "prompt_logprobs":
            found["prompt_logprobs"] = [None, *({str(i): {"logprob": -i / 100}} for i in prompt[1:])]
        if body.get("echo") and self.scores == "echo":
            values = [-i / 100 for i in prompt[1:]] + [-0.5] * body["max_tokens"]
            found["logprobs"] = {"token_logprobs": [None, *values]}
        return found

    async def answer(self, body: dict[str, Any], request: Any, *, chat: bool) -> Any:
        place = len(self.asked)
        self.asked.append(body)
        self.keys.add(request.headers.get("authorization", ""))
        if (response := self.misbehave(place, body)) is not None:
            return response
        known = {"model", "prompt", "messages", "max_tokens", "temperature", "top_p", "logprobs", "top_logprobs"}
        unknown = sorted(body.keys() - known - self.takes)
        if self.strict and unknown:
            return refused(400, f"Unrecognized request argument supplied: {unknown[0]}")
        if body.get("seed", 0) > self.most_seed:
            return refused(400, "seed: too large")
        if body["model"] not in [model["id"] for model in self.models]:
            return refused(404, f"The model `{body['model']}` does not exist.")
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            began = time.monotonic()
            while time.monotonic() - began < self.seconds(body) and not await request.is_disconnected():
                await asyncio.sleep(0.002)
        finally:
            self.at_once -= 1
        choice = self.choice(body, chat=chat)
        usage = {"prompt_tokens": len(body.get("prompt") or ""), "completion_tokens": len(self.ids(body))}
        return {"choices": [choice], **({"usage": usage} if self.usage else {})}

    @property
    def app(self) -> Any:
        from starlette.applications import Starlette
        from starlette.requests import Request
        from starlette.responses import JSONResponse, Response
        from starlette.routing import Route

        async def answered(request: Request) -> Response:
            chat = "chat" in request.url.path
            found = await self.answer(await request.json(), request, chat=chat)
            return found if isinstance(found, Response) else JSONResponse(found)

        async def listed(request: Request) -> Response:
            return JSONResponse({"object": "list", "data": self.models})

        paths = ["/v1/completions", *(["/v1/chat/completions"] if self.chats else [])]
        posts = [Route(path, answered, methods=["POST"]) for path in paths]
        return Starlette(routes=[*posts, Route("/v1/models", listed)])

    def drawn(self) -> list[dict[str, Any]]:
        """The requests that were not small ones to find out what it takes."""
        return [body for body in self.asked if body["max_tokens"] == TOKENS]


TOKENS = 12  # of each sample that is asked for


def refused(status: int, message: str, **headers: str) -> Any:
    from starlette.responses import JSONResponse

    return JSONResponse(
        {"error": {"message": message}}, status, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


def page(status: int = 200) -> Any:
    from starlette.responses import HTMLResponse

    return HTMLResponse("<!DOCTYPE html><html><body>Welcome</body></html>", status)


def named(address: str, model: str = "fake", tokenizer: Path | None = None) -> Backend:
    return Backend("http", address, model, None if tokenizer is None else str(tokenizer))
