"""How forecast models are stored: which tensors are kept, the dtype, the rounding, and the size of files."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass

from driftline.errors import InputError

NORM_LAYERS = ("*norm*", "*ln_*")  # the reference code's selection by substring
DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}  # that can be written, and their safetensors names


@dataclass(frozen=True)
class Storage:
    """How forecasts are stored.

    Attributes:
        keep: shell patterns of the tensors copied from the last checkpoint; the norm layers, as in the paper's code.
        dtype: `same` as the last checkpoint, `float32`, `bfloat16` or `float16`.
        rounding: `nearest`, or `stochastic` (to bfloat16, up or down by chance).
        seed: of stochastic rounding.
        shard_bytes: the largest file, in bytes.
    """

    keep: tuple[str, ...] = NORM_LAYERS
    dtype: str = "same"
    rounding: str = "nearest"
    seed: int = 0
    shard_bytes: int = 5_000_000_000


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether any of the shell patterns is of that tensor, whatever the case of letters."""
    return any(fnmatch.fnmatch(name.lower(), pattern.lower()) for pattern in patterns)


def parse_size(text: str) -> int:
    """Bytes of `5GB`, `200MB`, `1GiB` or a plain number.

    Raises:
        InputError: not of that form, or 0.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(i?)B?|B)?", text.strip(), re.IGNORECASE)
    size = 0
    if match:
        power = " KMGT".index(match[2].upper()) if match[2] else 0
        size = int(float(match[1]) * (1024 if match[3] else 1000) ** power)
    if size < 1:
        raise InputError(f"--shard-size {text!r} is no size: give bytes, or a number with a unit such as 5GB or 200MB")
    return size
