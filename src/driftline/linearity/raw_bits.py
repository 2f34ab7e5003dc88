"""Bits as floating-point numbers, inside compiled code."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload


@intrinsic
def float_of_bits(_, bits):
    """The float32 of a uint32's bits."""
    return types.float32(types.uint32), lambda context, builder, signature, arguments: builder.bitcast(
        arguments[0], ir.FloatType()
    )


def to_float32(raw):
    """A raw value as float32 (numba overload below: uint16 is bfloat16, float32 is itself)."""
    raise TypeError("only called from compiled code")


@overload(to_float32)
def _to_float32(raw):
    if raw is types.uint16:
        return lambda raw: float_of_bits(np.uint32(raw) << np.uint32(16))
    return lambda raw: raw
