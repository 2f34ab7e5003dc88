"""One checkpoint as the state of a watch keeps it: what is said of it, beside its sample and sketch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_BLOCK = 1 << 16  # of sketches, when they are multiplied


@dataclass(frozen=True)
class ReadCheckpoint:
    """One checkpoint that was read.

    Attributes:
        content: a digest of sample and sketch.
        files: a digest of names, sizes and times of the checkpoint's files.
        written: when the newest of them was written, ns.
        dtypes: of each tensor that is followed.
        products: content of each row that there was, this one among them -> inner product of the two sketches.
        whole: whether it is of weights, and not of changes of some that are elsewhere; False where a row does not say.
    """

    step: int
    path: str
    layout: str
    content: str
    files: str
    written: int
    dtypes: list[str]
    products: dict[str, float]
    whole: bool = False


@dataclass(frozen=True)
class Passed:
    """One that was read and is not kept: where it is, its content, its files, and when they were written, as above."""

    path: str
    content: str
    files: str
    written: int


def product(a: np.ndarray, b: np.ndarray) -> float:
    """Inner product of two sketches [m]: in float64, blocks added in order."""
    return sum(
        float(a[i : i + _BLOCK].astype(np.float64) @ b[i : i + _BLOCK].astype(np.float64))
        for i in range(0, a.size, _BLOCK)
    )
