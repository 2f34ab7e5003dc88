"""Logits beyond the last checkpoint, and the distribution that a token is drawn from (paper, section 1.5).

    logits* = early + alpha (late - early),   then temperature, top-k, top-p, softmax

all in float32. Temperature 0 is greedy: the whole probability is on the likeliest token, so that greedy
decoding needs no code of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from driftline.errors import InputError

if TYPE_CHECKING:
    import torch

FARTHEST = 1e4  # of alpha, either way: far beyond it logits leave float32, and what is drawn from them is no number
_NUCLEUS = 128  # tokens that are looked at before a whole vocabulary is sorted


@dataclass(frozen=True)
class SamplingParams:
    """How logits become the distribution that is drawn from; the defaults leave the model's own."""

    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 keeps all

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise InputError(f"--temperature is {self.temperature}: it must be 0 (greedy) or above")
        if not 0 < self.top_p <= 1:
            raise InputError(f"--top-p is {self.top_p}: it must be above 0 and at most 1")
        if self.top_k < 0:
            raise InputError(f"--top-k is {self.top_k}: it must be 0 (keep all) or above")


def combine_logits(early: torch.Tensor, late: torch.Tensor, alpha: float | torch.Tensor) -> torch.Tensor:
    """Extrapolated logits [..., V] in float32; exactly `late` at alpha 1 and `early` at 0.

    `alpha` is one for all, or a tensor that broadcasts against the logits.

    A token that `late` bans (-inf, as logits processors do) stays banned.
    """
    import torch

    late = late.float()
    return torch.lerp(early.float(), late, alpha).masked_fill(late == -math.inf, -math.inf)


def must_be_numbers(logits: torch.Tensor, models: Iterable[Any]) -> None:
    """Refuse logits [..., V] that no token can be drawn from, as some are NaN or infinite, or all are banned.

    Args:
        models: that they are of; the first that has a weight which is no number is named.

    Raises:
        InputError: they are such.
    """
    import torch

    if torch.isfinite(logits.amax(-1)).all():  # the largest is NaN where any is
        return
    for model in models:
        held = model if hasattr(model, "named_parameters") else model.model  # of an adapter, the model that it is on
        for name, weights in held.named_parameters():
            if not torch.isfinite(weights).all():
                raise InputError(
                    f"{model.config.name_or_path} holds weights that are not finite, in {name}: give another checkpoint"
                )
    raise InputError(
        "the logits are not finite, though the weights are: numbers overflow on the way, so give --dtype float32, or an alpha nearer 1"
    )


def probabilities(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """The distribution [..., V] that tokens are drawn from, in float32, by transformers' own warpers."""
    import torch
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    scores = logits.float().flatten(0, -2)
    if params.temperature == 0:
        greedy = torch.zeros_like(scores).scatter_(1, scores.argmax(1, keepdim=True), 1.0)
        return greedy.view(logits.shape)
    ids = torch.empty(0)  # the warpers ask for the tokens so far and do not look at them
    if params.temperature != 1:
        scores = TemperatureLogitsWarper(params.temperature)(ids, scores)
    if params.top_k:
        scores = TopKLogitsWarper(params.top_k)(ids, scores)
    if params.top_p == 1:
        return scores.softmax(-1).view(logits.shape)
    found, inside = _small_nucleus(scores.softmax(-1), params.top_p)
    if not inside.all():
        found[~inside] = TopPLogitsWarper(params.top_p)(ids, scores[~inside]).softmax(-1)
    return found.view(logits.shape)


def _small_nucleus(p: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Top-p truncation of the rows of `p` [N, V] whose nucleus is small, and which these are [N].

    The same as TopPLogitsWarper's, without its sort of the whole vocabulary, which can take as long as the model.
    """
    import torch

    likeliest, tokens = p.topk(min(_NUCLEUS, p.shape[1]))
    kept = likeliest.masked_fill(likeliest.cumsum(-1) - likeliest >= top_p, 0)
    found = torch.zeros_like(p).scatter_(1, tokens, kept / kept.sum(-1, keepdim=True))
    return found, likeliest.sum(-1) > top_p + 1e-5


def draw(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Tokens [...] drawn in proportion to `weights` [..., V] by inverting the sum at `uniform` [...] in [0, 1)."""
    import torch

    sums = weights.cumsum(-1, dtype=torch.float64)
    found = torch.searchsorted(sums, (uniform * sums[..., -1]).unsqueeze(-1), right=True).squeeze(-1)
    return found.clamp(max=weights.shape[-1] - 1)
