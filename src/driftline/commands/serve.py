"""`driftline serve`: an endpoint."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field, fields
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Suppress, arg

from driftline.commands.options import ModelDtype
from driftline.errors import InputError
from driftline.files.regular import read_given


@dataclass(frozen=True, kw_only=True)
class Serve:
    """An OpenAI-compatible endpoint that answers from extrapolated logits."""

    late: Annotated[str, arg(metavar="MODEL")]
    """folder or Hub name of the late model, or its LoRA adapter"""
    early: Annotated[str | None, arg(metavar="MODEL")] = None
    """the early model; of a LoRA adapter the base, if left out"""
    alpha: float | None = None
    """early + alpha (late - early), in logits; left out: the late model alone"""
    host: str = "127.0.0.1"
    """address to listen on"""
    port: int = 8000
    """0 takes a free one"""
    name: str = "driftline"
    """what clients call the model"""
    key: str | None = None
    """what clients must send as their API key; better by --key-file or DRIFTLINE_KEY, which others on the machine cannot see"""
    key_file: Annotated[Path | None, arg(metavar="FILE")] = None
    """file that holds the key"""
    no_key: bool = False
    """ask for no key even where other machines reach the server"""
    max_batch: int = 32
    """completions decoded at once, of all clients"""
    max_queue: int = 128
    """requests that may wait; more get a 503"""
    max_tokens_in_flight: int | None = None
    """tokens held at once; default what a quarter of the free memory holds"""
    timeout: float = 600.0
    """seconds for a request"""
    grace: float = 0.5
    """seconds for what runs when the server is told to stop"""
    dtype: ModelDtype = "auto"
    """to run models in; auto: as saved"""
    backend: Literal["transformers", "vllm"] = "transformers"
    """what decodes; vllm takes options of its own after --"""
    rest: Suppress[tuple[str, ...]] = field(default=(), metadata={"rest": True})
    """options for `vllm serve`, what follows `--`"""


def run(request: Serve) -> None:
    """Serve until interrupted."""
    key = key_of(request)
    if not request.no_key and not any(option.split("=")[0] == "--api-key" for option in request.rest):
        _refuse_open(request.host, key)
    if request.backend == "vllm":
        from driftline.decoding.vllm import launch

        _refuse_limits(request)
        names = ("late", "early", "alpha", "host", "port", "name", "dtype", "rest")
        sys.exit(launch.run(launch.Served(**{name: getattr(request, name) for name in names}, key=key)))
    if request.rest:
        raise InputError(f"{request.rest[0]!r} follows --, which is for --backend vllm: put options before it")
    if not 0 <= request.grace <= 3600:
        raise InputError(f"--grace is {request.grace}: it must be a number of seconds from 0 to 3600")
    from driftline.decoding.server.ending import leave_when_told

    leave_when_told()
    from driftline.decoding.server.application import Limits
    from driftline.decoding.server.listen import listen, serve
    from driftline.decoding.sources import load_sampler

    limits = Limits(request.max_batch, request.max_queue, request.max_tokens_in_flight, request.timeout)
    listener = listen(request.host, request.port)
    sampler = load_sampler(request.late, early=request.early, alpha=request.alpha, dtype=request.dtype)
    address, taken = listener.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    print(f"listening on http://{shown}:{taken}/v1 as {request.name!r}; Ctrl-C stops", flush=True)
    serve(sampler, listener, request.name, key=key, limits=limits, grace=request.grace)


_LIMITS = ("max_batch", "max_queue", "max_tokens_in_flight", "timeout", "grace")


def _refuse_limits(request: Serve) -> None:
    """Refuse the limits of our own server where vLLM's has others."""
    for field_ in fields(request):
        if field_.name in _LIMITS and getattr(request, field_.name) != field_.default:
            flag = f"--{field_.name.replace('_', '-')}"
            raise InputError(f"{flag} is of --backend transformers: give vLLM's own options after --")


def _refuse_open(host: str, key: str | None) -> None:
    """Refuse to answer whoever reaches this machine, unless that was said."""
    try:
        near = ip_address(host).is_loopback
    except ValueError:
        near = host == "localhost"
    if key is None and not near:
        raise InputError(
            f"--host {host} is open to other machines and no key is asked for: give --key-file or DRIFTLINE_KEY, or --no-key"
        )


_KEY = 10 << 10  # bytes of a file that holds one


def key_of(request: Serve) -> str | None:
    """The key that clients must send: of the command line, a file, or the environment; None where there is none.

    Raises:
        InputError: the file cannot be read, or the key is empty or cannot stand in a header.
    """
    if request.key is not None and request.key_file is not None:
        raise InputError("--key and --key-file are both given: give one")
    key, where = request.key, "--key"
    if request.key_file is not None:
        where = f"--key-file {request.key_file}"
        try:
            key = read_given(request.key_file, _KEY).decode().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise InputError(f"{where} cannot be read ({reason}): give a file that holds the key") from error
    elif key is None:
        key, where = os.environ.get("DRIFTLINE_KEY"), "DRIFTLINE_KEY"
    if key is not None and request.no_key:
        raise InputError(f"--no-key is given beside {where}: give one")
    if key is not None and (not key.isascii() or not key.isprintable() or not key or " " in key):
        raise InputError(f"{where} holds no key: give one or more letters, digits and signs, without spaces")
    return key


def show(record: None, request: Serve) -> None:
    """All was said while it served."""
