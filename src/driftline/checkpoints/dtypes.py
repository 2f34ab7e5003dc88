"""Floating dtypes of checkpoints, by their safetensors names, and how to read them as float32."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

ITEM_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "I16": 2,
    "U16": 2,
    "I32": 4,
    "U32": 4,
    "I64": 8,
    "U64": 8,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "F8_E4M3FNUZ": 1,
    "F8_E5M2FNUZ": 1,
    "C64": 8,
    "F16": 2,
    "BF16": 2,
    "F32": 4,
    "F64": 8,
}


@dataclass(frozen=True)
class FloatFormat:
    """A floating format: how its raw bits are stored and its stored mantissa bits."""

    raw: np.dtype
    mantissa_bits: int


FLOATS = {
    "F64": FloatFormat(np.dtype("<f8"), 52),
    "F32": FloatFormat(np.dtype("<f4"), 23),
    "F16": FloatFormat(np.dtype("<f2"), 10),
    "BF16": FloatFormat(np.dtype("<u2"), 7),
    "F8_E4M3": FloatFormat(np.dtype("u1"), 3),
    "F8_E5M2": FloatFormat(np.dtype("u1"), 2),
}


@cache
def _float8_values(exponent_bits: int, mantissa_bits: int, bias: int, has_infinity: bool) -> np.ndarray:
    """The 256 values of an 8-bit float (OCP formats e4m3fn and e5m2), as float32."""
    values = np.empty(256, np.float32)
    top = (1 << exponent_bits) - 1
    for bits in range(256):
        sign = -1.0 if bits >> 7 else 1.0
        exponent = (bits >> mantissa_bits) & top
        mantissa = bits & ((1 << mantissa_bits) - 1)
        fraction = mantissa / (1 << mantissa_bits)
        if has_infinity and exponent == top:
            values[bits] = sign * math.inf if mantissa == 0 else math.nan
        elif not has_infinity and exponent == top and mantissa == (1 << mantissa_bits) - 1:
            values[bits] = math.nan
        elif exponent == 0:
            values[bits] = sign * fraction * 2.0 ** (1 - bias)
        else:
            values[bits] = sign * (1 + fraction) * 2.0 ** (exponent - bias)
    return values


def decode(raw: np.ndarray, dtype: str, out: np.ndarray) -> None:
    """Write the values of `raw` (uint8 bytes of n elements of `dtype`) into float32 `out` [n].

    Exact for every format up to 32 bits; F64 is rounded to the nearest float32, infinity beyond its range.
    """
    if dtype == "BF16":
        np.left_shift(raw.view("<u2"), 16, out=out.view(np.uint32), dtype=np.uint32)
    elif dtype == "F8_E4M3":
        np.take(_float8_values(4, 3, 7, False), raw, out=out)
    elif dtype == "F8_E5M2":
        np.take(_float8_values(5, 2, 15, True), raw, out=out)
    else:
        with np.errstate(over="ignore"):
            np.copyto(out, raw.view(FLOATS[dtype].raw), casting="same_kind")


def round_to(values: np.ndarray, dtype: str) -> np.ndarray:
    """Float32 `values` rounded to nearest-even in `dtype`, returned as float32 (no range limits for FP8)."""
    if dtype in ("F32", "F64"):
        return values
    if dtype == "F16":
        return values.astype(np.float16).astype(np.float32)
    shift = 23 - FLOATS[dtype].mantissa_bits
    bits = values.astype(np.float32).view(np.uint32)
    half = np.uint32((1 << (shift - 1)) - 1) + ((bits >> np.uint32(shift)) & np.uint32(1))
    return ((bits + half) & np.uint32(0xFFFFFFFF ^ ((1 << shift) - 1))).view(np.float32)
