"""What tells the models of one server from those of another that is called the same."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from driftline.decoding.sampler import Sampler

if TYPE_CHECKING:
    import torch

_VALUES = 64  # of each tensor, spread over it: neighbours of a run differ in some of them


def fingerprint(sampler: Sampler) -> str:
    """Of weights, alpha and end tokens; the same on every machine, and little is read for it."""
    found = hashlib.blake2b(digest_size=8)
    found.update(repr((sampler.early is not None, sampler.alpha, sorted(sampler.end_ids))).encode())
    for model in (sampler.late, sampler.early):
        for name, tensor in _parameters(model):
            found.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
            found.update(_some(tensor))
    return f"driftline-{found.hexdigest()}"


def _parameters(model: Any) -> list[tuple[str, torch.Tensor]]:
    named = getattr(model, "named_parameters", None)  # an adapter's base has none of its own
    return list(named()) if named is not None else []


def _some(tensor: torch.Tensor) -> bytes:
    if tensor.is_meta:
        return b""
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, len(flat) // _VALUES)].float().cpu().numpy().tobytes()
