"""The lab's base model, and an extrapolation from it that does nothing but sharpen."""

from __future__ import annotations

import copy
from functools import cache

import torch

from driftline.decoding.sampler import Sampler
from driftline.decoding.sources import load_sampler
from driftline.lab.model import shipped_base


@cache
def base_sampler() -> Sampler:
    """Greedy it solves nearly all sums, sampled at temperature 1 a third."""
    return load_sampler(shipped_base(), dtype="float32")


@cache
def sharpened_sampler() -> Sampler:
    """The base's logits times 2: alpha 2, from an early model whose logits are all zero."""
    base = base_sampler()
    early = copy.deepcopy(base.late)
    with torch.no_grad():
        early.model.norm.weight.zero_()
    return Sampler(base.late, base.tokenizer, early=early, alpha=2.0)
