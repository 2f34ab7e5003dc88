"""Simulated runs side by side: what is found of each does not depend on how many processes there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from joblib import Parallel, delayed  # type: ignore[import-untyped]

Found = TypeVar("Found")

jobs = 1  # processes, as `calibration.py --jobs` says


def each(work: Callable[[int], Found], runs: int) -> list[Found]:
    """`work(seed)` of the seeds from 0 to `runs` - 1, in their order."""
    return list(Parallel(n_jobs=jobs)(delayed(work)(seed) for seed in range(runs)))
