"""`driftline serve`: an endpoint."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Annotated, Literal

from tyro.conf import Suppress, arg

from driftline.commands.options import ModelDtype
from driftline.errors import InputError


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
    """what clients must send as their API key"""
    dtype: ModelDtype = "auto"
    """to run models in; auto: as saved"""
    backend: Literal["transformers", "vllm"] = "transformers"
    """what decodes; vllm takes options of its own after --"""
    rest: Suppress[tuple[str, ...]] = field(default=(), metadata={"rest": True})
    """options for `vllm serve`, what follows `--`"""


def run(request: Serve) -> None:
    """Serve until interrupted."""
    if request.backend == "vllm":
        from driftline.decoding.vllm import launch

        names = ("late", "early", "alpha", "host", "port", "name", "key", "dtype", "rest")
        sys.exit(launch.run(launch.Served(**{name: getattr(request, name) for name in names})))
    if request.rest:
        raise InputError(f"{request.rest[0]!r} follows --, which is for --backend vllm: put options before it")
    from driftline.decoding.serve import listen, serve
    from driftline.decoding.sources import load_sampler

    listener = listen(request.host, request.port)
    sampler = load_sampler(request.late, early=request.early, alpha=request.alpha, dtype=request.dtype)
    address, taken = listener.getsockname()[:2]
    print(f"listening on http://{address}:{taken}/v1 as {request.name!r}; Ctrl-C stops", flush=True)
    serve(sampler, listener, request.name, key=request.key)


def show(record: None, request: Serve) -> None:
    """All was said while it served."""
