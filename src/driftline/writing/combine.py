"""The inner loops of writing a forecast: combine checkpoints, round, and measure what rounding lost.

out = W_ref + sum_k c_k (W_k - W_ref), in float32, over the checkpoints whose coefficient is not zero, the
first of them being the reference; for two points that is exactly W_0 + alpha (W_t - W_0).
"""

from __future__ import annotations

import zlib

import numpy as np

from driftline.compiled import njit

Array = np.ndarray

_BLOCK = 2048  # weights: three float32 rows of it fit the first-level cache


@njit(nogil=True, cache=True)  # no fast-math: products and sums are rounded one by one, as torch rounds them
def _add_scaled_difference(out: Array, c: np.float32, row: Array, reference: Array) -> None:
    for i in range(out.size):
        out[i] += c * (row[i] - reference[i])


@njit(nogil=True, cache=True)
def combine_checkpoints(values: Array, coefficients: Array, out: Array) -> None:
    """Forecast of a chunk.

    Args:
        values: float32 [K, n], the reference first; coefficients: float32 [K], the first unused; out: float32 [n].
    """
    out[:] = values[0]
    for k in range(1, values.shape[0]):
        _add_scaled_difference(out, coefficients[k], values[k], values[0])


@njit(nogil=True, cache=True)
def to_bfloat16(values: Array, out: Array) -> None:
    """Round float32 [n] to nearest-even bfloat16 bits, uint16 [n]."""
    bits = values.view(np.uint32)
    for i in range(out.size):
        b = bits[i]
        out[i] = np.uint16((b + np.uint32(0x7FFF) + ((b >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


@njit(nogil=True, cache=True)
def to_bfloat16_stochastic(values: Array, seed: int, first: int, out: Array) -> None:
    """Round float32 [n] up or down with probability by distance; random bits are a hash of seed and position."""
    bits = values.view(np.uint32)
    for i in range(out.size):
        z = np.uint64(seed) + np.uint64(first + i) * np.uint64(0x9E3779B97F4A7C15)  # SplitMix64
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
        out[i] = np.uint16((bits[i] + np.uint32(z & np.uint64(0xFFFF))) >> np.uint32(16))


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _block_losses(exact: Array, rounded: Array, reference: Array, n: int) -> tuple[float, float]:
    lost = np.float32(0.0)
    moved = np.float32(0.0)
    for i in range(n):
        e = rounded[i] - exact[i]
        d = exact[i] - reference[i]
        lost += e * e
        moved += d * d
    return lost, moved


@njit(nogil=True, cache=True)
def losses(exact: Array, rounded: Array, reference: Array) -> tuple[float, float]:
    """Squared norms of rounding's error and of the move from the reference; not finite where a weight is not."""
    lost = 0.0
    moved = 0.0
    for start in range(0, exact.size, _BLOCK):
        n = min(_BLOCK, exact.size - start)
        a, b = _block_losses(exact[start:], rounded[start:], reference[start:], n)
        lost += a
        moved += b
    return lost, moved


def wide_losses(exact: Array, rounded: Array, reference: Array) -> tuple[float, float]:
    """`losses` of weights whose squares are too large for float32; slower."""
    with np.errstate(over="ignore", invalid="ignore"):
        lost = np.subtract(rounded, exact, dtype=np.float64)
        moved = np.subtract(exact, reference, dtype=np.float64)
        return float(lost @ lost), float(moved @ moved)


@njit(nogil=True, cache=True)
def _from_bfloat16(bits: Array, out: Array) -> None:
    for i in range(out.size):
        out[i] = np.uint32(bits[i] << np.uint32(16))


@njit(nogil=True, cache=True)
def combine_bfloat16(raw: Array, coefficients: Array, out: Array) -> tuple[float, float]:
    """`combine_checkpoints`, `to_bfloat16` and `losses` at once, on values that never leave the first-level cache.

    Args:
        raw: bfloat16 bits, uint16 [K, n], the reference first; coefficients: float32 [K]; out: uint16 [n].
    """
    lost = 0.0
    moved = 0.0
    reference = np.empty(_BLOCK, np.float32)
    exact = np.empty(_BLOCK, np.float32)
    row = np.empty(_BLOCK, np.float32)
    for start in range(0, out.size, _BLOCK):
        n = min(_BLOCK, out.size - start)
        _from_bfloat16(raw[0, start : start + n], reference[:n].view(np.uint32))
        exact[:n] = reference[:n]
        for k in range(1, raw.shape[0]):
            _from_bfloat16(raw[k, start : start + n], row[:n].view(np.uint32))
            _add_scaled_difference(exact[:n], coefficients[k], row[:n], reference[:n])
        to_bfloat16(exact[:n], out[start : start + n])
        _from_bfloat16(out[start : start + n], row[:n].view(np.uint32))
        a, b = _block_losses(exact, row, reference, n)
        lost += a
        moved += b
    return lost, moved


def encode(values: Array, dtype: str, *, stochastic: bool, seed: int, name: str, first: int) -> Array:
    """Float32 values [n] as the raw elements of `dtype` (F32, BF16 or F16)."""
    if dtype == "F32":
        return values
    if dtype == "F16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16)
    out = np.empty(values.size, np.uint16)
    if stochastic:
        to_bfloat16_stochastic(values, seed ^ (zlib.crc32(name.encode()) << 20), first, out)
    else:
        to_bfloat16(values, out)
    return out


def decoded(raw: Array, dtype: str) -> Array:
    """What `encode` stored, as float32."""
    if dtype == "BF16":
        return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return raw.astype(np.float32, copy=False)
