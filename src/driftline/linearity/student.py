"""Quantiles of Student's t, without scipy: what measures weights needs numpy alone."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist


@lru_cache(maxsize=1024)
def student(level: float, freedom: int) -> float:
    """The quantile of Student's t at `level` (above a half) with so many degrees of freedom, 1 or more.

    By bisection on its distribution function, a finite sum for whole degrees of freedom (Abramowitz & Stegun 26.7).
    """
    if freedom > 1000:
        return NormalDist().inv_cdf(level)
    low, high = 0.0, math.pi / 2  # of the angle whose tangent is t / sqrt(freedom)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 + _within(middle, freedom)) / 2 < level else (low, middle)
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def _within(angle: float, freedom: int) -> float:
    """The chance that |t| lies below sqrt(freedom) tan(angle)."""
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for k in range(odd, freedom - 1, 2):  # of the powers of the cosine up to freedom - 2
        total += term
        term *= square * (k + 1) / (k + 2)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
