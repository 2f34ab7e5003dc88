"""The endpoint as an ASGI application: routes, keys, limits, errors in OpenAI's form."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from driftline.decoding.sampler import Sampler
from driftline.decoding.server.answers import CHAT, COMPLETION, Answer, Choice, Form
from driftline.decoding.server.bodies import (
    ChatBody,
    CompletionBody,
    Wanted,
    chat_rows,
    completion_rows,
    parsed,
    tokens_of,
)
from driftline.decoding.server.exchange import Exchange, TimeIsUp, unless_gone
from driftline.decoding.server.identity import fingerprint
from driftline.decoding.server.metrics import Metrics
from driftline.decoding.server.scheduler import Busy, Failed, Scheduler
from driftline.errors import InputError, first_line
from driftline.prompts import SHORT, make_ready

try:
    from fastapi import Depends, FastAPI, Request
    from fastapi.responses import JSONResponse, Response
    from starlette.exceptions import HTTPException
    from starlette.types import Receive as ReceiveMessage
    from starlette.types import Scope, Send
except ImportError as missing:
    raise InputError(f"serving needs {missing.name}: pip install 'driftline[serve]'") from missing

MOST_BODY = 8 * 2**20  # bytes of one request
MOST_BODIES = 128 * 2**20  # of all that are being received, or wait to be read
_KINDS = {401: "authentication_error", 503: "overloaded_error", 504: "timeout_error"}
_T = TypeVar("_T")


@dataclass(frozen=True)
class Limits:
    """What the server takes on at once."""

    max_batch: int = 32  # rows decoded at once
    max_queue: int = 128  # requests that wait
    max_tokens: int | None = None  # held at once; None: by the memory that is free
    timeout: float = 600.0  # seconds for a request
    read_timeout: float = 20.0  # seconds for its headers, and for its body

    def __post_init__(self) -> None:
        named = {
            "--max-batch": self.max_batch,
            "--max-queue": self.max_queue,
            "--max-tokens-in-flight": self.max_tokens,
        }
        for flag, value in named.items():
            if value is not None and value < 1:
                raise InputError(f"{flag} is {value}: it must be at least 1")
        if not 0 < self.timeout < float("inf"):
            raise InputError(f"--timeout is {self.timeout}: it must be a number of seconds above 0")


def application(sampler: Sampler, name: str, key: str | None = None, limits: Limits | None = None) -> FastAPI:
    """The endpoint; its scheduler, in `app.state.scheduler`, runs from the application's start-up to its end.

    Args:
        name: of the model, as clients must give it.
        key: what clients must send as bearer token; None asks for none.
    """
    limits = limits or Limits()
    scheduler = Scheduler(sampler, max_batch=limits.max_batch, max_queue=limits.max_queue, max_tokens=limits.max_tokens)
    metrics, bodies, created = Metrics(scheduler), Bodies(limits.read_timeout), int(time.time())
    mark = fingerprint(sampler)
    make_ready(sampler.tokenizer)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        scheduler.start()
        yield
        scheduler.cut()
        scheduler.stop(timeout=0.5)

    app = FastAPI(title="driftline", openapi_url=None, lifespan=lifespan, redirect_slashes=False)
    app.state.scheduler, app.state.bodies = scheduler, bodies
    app.add_middleware(Counted, metrics=metrics)

    def authorised(request: Request) -> None:
        scheme, _, sent = request.headers.get("authorization", "").partition(" ")
        good = scheme.lower() == "bearer" and hmac.compare_digest(sent.strip().encode("latin-1"), (key or "").encode())
        if key is not None and not good:
            raise HTTPException(
                401,
                "the key is missing or wrong: send it as 'Authorization: Bearer KEY'",
                {"www-authenticate": "Bearer"},
            )

    async def answer(request: Request, form: Form, make: Callable[[bytes], Wanted]) -> Response:
        started = time.perf_counter()
        async with bodies.of(request) as body:
            wanted = await _in_thread(partial(make, body), limits.timeout, long=len(body) > SHORT)
        choices = [Choice(sampler, wanted, place, form) for place in range(len(wanted.rows))]
        exchange = Exchange(scheduler, wanted.rows, wanted.stop, limits.timeout)
        made = Answer(form, name, wanted, choices, mark)
        metrics.tokens.labels("prompt").inc(tokens_of(wanted.prompts))

        async def steps() -> AsyncIterator[Any]:
            first = True
            async for found in exchange.steps():
                if first:
                    metrics.first.observe(time.perf_counter() - started)
                first = False
                metrics.tokens.labels("completion").inc(sum(len(step.ids) for step in found))
                for step in found:
                    yield step

        async def events() -> AsyncIterator[str]:
            try:
                async for step in steps():
                    for piece in choices[step.place].pieces(step):
                        yield _json(made.piece([piece]))
                if wanted.include_usage:
                    yield _json(made.piece([]))
            except (TimeIsUp, Busy, Failed) as error:
                yield _json(_error_body(_status(error), str(error)))
            yield "[DONE]"

        async def whole() -> str:
            async for step in steps():
                choices[step.place].take(step)
            return _json(made.whole())

        if wanted.stream:
            return EventStream(events(), exchange, limits.timeout)
        try:
            text = await unless_gone(request.receive, whole())
        finally:
            exchange.close()
        return Response(status_code=499) if text is None else Response(text, media_type="application/json")

    def served(model: str) -> None:
        if model != name:
            raise HTTPException(404, f"the model {model[:80]!r} is not served here: this is {name!r}")

    def completion(body: bytes) -> Wanted:
        asked = parsed(CompletionBody, body)
        served(asked.model)
        return completion_rows(asked, sampler, scheduler.max_tokens)

    def chat(body: bytes) -> Wanted:
        asked = parsed(ChatBody, body)
        served(asked.model)
        return chat_rows(asked, sampler, scheduler.max_tokens)

    @app.post("/v1/completions", dependencies=[Depends(authorised)])
    async def completions(request: Request) -> Response:
        return await answer(request, COMPLETION, completion)

    @app.post("/v1/chat/completions", dependencies=[Depends(authorised)])
    async def chats(request: Request) -> Response:
        return await answer(request, CHAT, chat)

    @app.get("/v1/models", dependencies=[Depends(authorised)])
    async def models() -> dict[str, Any]:
        early = sampler.early is not None
        entry = {"id": name, "object": "model", "created": created, "owned_by": "driftline"}
        own = {"early": early, "alpha": sampler.alpha if early else None, "fingerprint": mark}
        return {"object": "list", "data": [{**entry, "max_model_len": sampler.context, "driftline": own}]}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics", dependencies=[Depends(authorised)])
    async def measured() -> Response:
        return Response(metrics.text(), media_type=metrics.content_type)

    @app.exception_handler(InputError)
    async def unfit(request: Request, error: InputError) -> JSONResponse:
        return _error(400, str(error))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return _error(error.status_code, error.detail, error.headers)

    @app.exception_handler(Busy)
    @app.exception_handler(TimeIsUp)
    @app.exception_handler(Failed)
    async def overtaxed(request: Request, error: Exception) -> JSONResponse:
        return _error(_status(error), str(error))

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        print(f"driftline: a bug in answering {request.url.path}: {first_line(error)}", file=sys.stderr, flush=True)
        if os.environ.get("DRIFTLINE_DEBUG") == "1":
            traceback.print_exception(error)
        return _error(500, "the server failed at this request: its log says why")

    return app


class Bodies:
    """Reads bodies, of JSON only, within bounds of size and time."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._held, self._open = seconds, 0, True
        self._coming: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        """Wait no more for bodies: nothing could be made of them."""
        self._open = False
        for coming in self._coming:
            coming.cancel()

    @contextlib.asynccontextmanager
    async def of(self, request: Request) -> AsyncIterator[bytes]:
        """The body of a request, which counts as held until the block ends.

        Raises:
            HTTPException: the body is of another type, too large or too slow, or the client has left.
            Busy: the server is about to stop.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise HTTPException(415, "the body must be JSON: send it with 'Content-Type: application/json'")
        announced = request.headers.get("content-length", "0")
        if not announced.isdecimal() or len(announced) > 15 or int(announced) > 8 * MOST_BODY:
            raise HTTPException(413, _TOO_LARGE)
        parts: list[bytes] = []
        coming = asyncio.ensure_future(self._read(request, parts))
        self._coming.add(coming)
        try:
            await self._whole(coming)
            yield b"".join(parts)
        finally:
            self._coming.discard(coming)
            self._held -= sum(map(len, parts))

    async def _whole(self, coming: asyncio.Task[None]) -> None:
        try:
            if self._open:
                await asyncio.wait_for(coming, self._seconds)
        except asyncio.CancelledError:
            if self._open:  # it is the request that was cancelled
                raise
        except asyncio.TimeoutError:
            raise HTTPException(
                408, f"the body did not come within {self._seconds:g} seconds: send it at once"
            ) from None
        if not self._open:
            coming.cancel()
            raise Busy("the server is about to stop: ask another")

    async def _read(self, request: Request, parts: list[bytes]) -> None:
        size, more = 0, True
        while more:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise HTTPException(499, "the client has left")
            part, more = message.get("body", b""), message.get("more_body", False)
            size += len(part)
            if size > 8 * MOST_BODY:
                raise HTTPException(413, _TOO_LARGE)
            if size <= MOST_BODY:  # what is beyond is read, so that the client hears the answer, and dropped
                parts.append(part)
                self._held += len(part)
            if self._held > MOST_BODIES and size > SHORT:
                raise HTTPException(503, "too much is being received at once: try again", {"retry-after": "1"})
        if size > MOST_BODY:
            raise HTTPException(413, _TOO_LARGE)


class EventStream(Response):
    """Server-sent events, until there are no more or the client has hung up."""

    def __init__(self, events: AsyncIterator[str], exchange: Exchange, seconds: float) -> None:
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-cache"})
        del self.headers["content-length"]
        self._events, self._exchange, self._seconds = events, exchange, seconds

    async def __call__(self, scope: Scope, receive: ReceiveMessage, send: Send) -> None:
        async def pump() -> None:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for event in self._events:
                body = f"data: {event}\n\n".encode()
                await send({"type": "http.response.body", "body": body, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

        try:
            with contextlib.suppress(asyncio.TimeoutError):  # a client that does not read what is sent
                await asyncio.wait_for(unless_gone(receive, pump()), self._seconds + 5)
        finally:
            self._exchange.close()


class Counted:
    """Counts requests by what was asked and how it ended."""

    def __init__(self, app: Any, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: ReceiveMessage, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or not path.startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 499  # that of a client that left before there was an answer

        async def noted(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        endpoint = path if path in ("/v1/completions", "/v1/chat/completions", "/v1/models") else "other"
        try:
            await self._app(scope, receive, noted)
        finally:
            self._metrics.requests.labels(endpoint, str(status)).inc()
            self._metrics.seconds.labels(endpoint).observe(time.perf_counter() - started)


_TOO_LARGE = f"the body is larger than {MOST_BODY >> 20} MiB: send less at once"
_TURNS = {False: threading.Lock(), True: threading.Lock()}  # so that what is short does not wait for what is long


async def _in_thread(work: Callable[[], _T], seconds: float, *, long: bool) -> _T:
    """What `work` gives, done beside the event loop in a thread that does not hold up the end of the process.

    Args:
        long: whether it waits for other work that is long, or for what is not.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, error: Exception | None) -> None:
        if not future.done():
            future.set_exception(error) if error else future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            with _TURNS[long]:
                if future.done():  # nobody waits
                    return
                result = work()
        except Exception as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="encoding", daemon=True).start()
    late = TimeIsUp(f"the request took more than {seconds:g} seconds to read: ask for less")
    timer = loop.call_later(seconds, settle, None, late)
    try:
        return await future
    finally:
        timer.cancel()


def _status(error: Exception) -> int:
    return 503 if isinstance(error, Busy) else 504 if isinstance(error, TimeIsUp) else 500


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _error_body(status: int, message: str) -> dict[str, Any]:
    kind = _KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    more = dict(headers or {})
    if status == 503:
        more.setdefault("retry-after", "1")
    if status in (401, 404, 405, 408, 413, 415):  # the body may not have been read: nothing else can come
        more["connection"] = "close"
    return JSONResponse(_error_body(status, message), status, more)
