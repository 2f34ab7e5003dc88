"""An OpenAI-compatible endpoint over a sampler: /v1/completions, /v1/chat/completions, /v1/models.

Requests are answered one after another; the prompts and the `n` samples of one request are decoded
together. What is wrong with a request comes back as a 4xx with a sentence, in OpenAI's form.
"""

from __future__ import annotations

import errno
import hmac
import secrets
import socket
import threading
import time
import uuid
from typing import Annotated, Any

from driftline.decoding.sampler import Completion, Sampler, row_seed
from driftline.errors import InputError
from driftline.prompts import Prompt, encode

try:
    import uvicorn
    from fastapi import Depends, FastAPI, HTTPException, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from pydantic import BaseModel, ConfigDict, Field
except ImportError as missing:
    raise InputError(f"serving needs {missing.name}: pip install 'driftline[serve]'") from missing

_MOST_SAMPLES = 128
_WITHOUT_CONTEXT = 4096  # new tokens of a chat that names no limit, where the model names no context


class _Body(BaseModel):
    """What both kinds of request may ask for; what would change the answer and is not known here is refused."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    n: Annotated[int, Field(ge=1, le=_MOST_SAMPLES)] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None


class CompletionBody(_Body):
    prompt: str | list[str] | list[int] | list[list[int]]


class ChatBody(_Body):
    messages: list[dict[str, Any]]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None


_REFUSED = (
    "stream",
    "logprobs",
    "top_logprobs",
    "echo",
    "suffix",
    "best_of",
    "logit_bias",
    "presence_penalty",
    "frequency_penalty",
    "tools",
    "functions",
    "response_format",
)


def application(sampler: Sampler, name: str, key: str | None = None) -> FastAPI:
    """The endpoint as an ASGI application.

    Args:
        name: of the model, as clients must give it.
        key: what clients must send as bearer token; None asks for none.
    """
    app = FastAPI(title="driftline", openapi_url=None)
    one_at_a_time = threading.Lock()
    created = int(time.time())

    def authorised(request: Request) -> None:
        sent = request.headers.get("authorization", "").removeprefix("Bearer ")
        if key is not None and not hmac.compare_digest(sent.encode(), key.encode()):
            raise HTTPException(401, "the key is missing or wrong: send it as 'Authorization: Bearer KEY'")

    def sample(body: _Body, prompts: list[Prompt], most: int) -> tuple[list[dict[str, Any]], dict[str, int]]:
        _must_be_supported(body, name)
        stop = [body.stop] if isinstance(body.stop, str) else list(body.stop or ())
        if not all(stop):
            raise InputError("stop holds an empty string: give at least one character")
        for prompt in prompts:
            _must_be_tokens(sampler, prompt.ids)
        count, seed = body.n or 1, secrets.randbits(62) if body.seed is None else body.seed
        jobs = [(index, k) for index in range(len(prompts)) for k in range(count)]
        with one_at_a_time:
            completions = sampler.sample(
                [prompts[index].ids for index, _ in jobs],
                temperature=1.0 if body.temperature is None else body.temperature,
                top_p=1.0 if body.top_p is None else body.top_p,
                top_k=max(body.top_k or 0, 0),
                max_new_tokens=most,
                seeds=[row_seed(seed, index, k) for index, k in jobs],
                stop=stop,
            )
        choices = [
            {"index": place, "text": sampler.text(c, stop), "finish_reason": c.finish_reason, "logprobs": None}
            for place, c in enumerate(completions)
        ]
        return choices, _usage(prompts, completions)

    @app.post("/v1/completions", dependencies=[Depends(authorised)])
    def completions(body: CompletionBody) -> dict[str, Any]:
        prompts = [
            Prompt("", item) if isinstance(item, list) else encode({"prompt": item}, sampler.tokenizer, "the request")
            for item in _several(body.prompt)
        ]
        choices, usage = sample(body, prompts, body.max_tokens or 16)
        return _answer("cmpl", "text_completion", name, choices, usage)

    @app.post("/v1/chat/completions", dependencies=[Depends(authorised)])
    def chat(body: ChatBody) -> dict[str, Any]:
        prompt = encode({"messages": body.messages}, sampler.tokenizer, "the request")
        most = body.max_completion_tokens or body.max_tokens or sampler.context or _WITHOUT_CONTEXT
        choices, usage = sample(body, [prompt], most)
        for choice in choices:
            choice["message"] = {"role": "assistant", "content": choice.pop("text"), "refusal": None}
        return _answer("chatcmpl", "chat.completion", name, choices, usage)

    @app.get("/v1/models", dependencies=[Depends(authorised)])
    def models() -> dict[str, Any]:
        return {
            "object": "list",
            "data": [{"id": name, "object": "model", "created": created, "owned_by": "driftline"}],
        }

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body") or "the body"
        return _error(400, f"{where}: {first['msg']}")

    @app.exception_handler(InputError)
    def unfit(request: Request, error: InputError) -> JSONResponse:
        return _error(400, str(error))

    @app.exception_handler(HTTPException)
    def refused(request: Request, error: HTTPException) -> JSONResponse:
        return _error(error.status_code, error.detail)

    return app


def listen(host: str, port: int) -> socket.socket:
    """The address to serve on, taken at once, before a model is loaded; port 0 is any free one.

    Raises:
        InputError: the port is in use or may not be taken, or the host is not this machine's.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise InputError(f"port {port} of {host} is in use: choose another with --port") from error
        raise InputError(
            f"{host}, port {port}, cannot be served on ({error}): choose another --host or --port"
        ) from error


def serve(sampler: Sampler, listener: socket.socket, name: str, *, key: str | None = None) -> None:
    """Answer requests until interrupted."""
    uvicorn.Server(uvicorn.Config(application(sampler, name, key), log_level="warning")).run(sockets=[listener])


def _must_be_supported(body: _Body, name: str) -> None:
    if body.model != name:
        raise HTTPException(404, f"the model {body.model!r} is not served here: this is {name!r}")
    for field in _REFUSED:
        if (body.model_extra or {}).get(field):
            raise InputError(f"{field} is not supported: leave it out")


def _must_be_tokens(sampler: Sampler, ids: list[int]) -> None:
    size = sampler.late.config.get_text_config().vocab_size
    if not all(0 <= token < size for token in ids):
        raise InputError(f"prompt has a token id outside 0 to {size - 1}: use this model's tokenizer")
    sampler.must_fit(ids, "the prompt")


def _several(prompt: str | list[str] | list[int] | list[list[int]]) -> list[Any]:
    """The prompts of a request, each a text or a list of token ids."""
    single = isinstance(prompt, str) or (prompt and isinstance(prompt[0], int))
    return [prompt] if single else list(prompt)


def _usage(prompts: list[Prompt], completions: list[Completion]) -> dict[str, int]:
    read, drawn = sum(len(prompt.ids) for prompt in prompts), sum(len(c.ids) for c in completions)
    return {"prompt_tokens": read, "completion_tokens": drawn, "total_tokens": read + drawn}


def _answer(prefix: str, kind: str, name: str, choices: list[dict[str, Any]], usage: dict[str, int]) -> dict[str, Any]:
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": name,
        "choices": choices,
        "usage": usage,
    }


def _error(status: int, message: str) -> JSONResponse:
    kind = "authentication_error" if status == 401 else "invalid_request_error"
    return JSONResponse({"error": {"message": message, "type": kind, "param": None, "code": None}}, status)
