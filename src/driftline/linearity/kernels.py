"""The scan's inner loops: everything measured of a block of parameters while it is in cache.

Shapes: T checkpoints, n parameters of a chunk, B parameters of a block. Deltas from the first
checkpoint are taken in float32 (exact for bfloat16 runs); sums across blocks are float64.
Per parameter, R² is that of ordinary least squares with intercept against the clock (paper, section
4.1), by two passes over the block: means first, then centred sums, scaled by the parameter's range so
that neither tiny nor huge updates leave float32.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numba.extending import overload

R2_BINS = 2000  # width 0.0005: quantiles from the histogram are within 0.001
STRONG_R2 = 0.7  # the paper's threshold for a strong linear trend
PAPER_MIN_RANGE = 1e-4  # the reference code's filter: range over checkpoints above this ...
PAPER_MIN_DISTINCT = 4  # ... and at least so many distinct values

# Rows of `sums` [2, 3]: the populations; columns: count, sum of R², count of R² > 0.7.
NO_FILTER, PAPER_FILTER = 0, 1
COUNT, SUM_R2, STRONG = 0, 1, 2

_FAST = {"contract", "reassoc", "nsz", "arcp"}  # not nnan or ninf: non-finite weights must be seen


def load_row(raw_row, out):
    """Values of a row of raw bits as float32 (numba overload below: uint16 is bfloat16, float32 is itself)."""
    raise TypeError("only called from compiled code")


@overload(load_row, inline="always")
def _load_row(raw_row, out):
    if raw_row.dtype.name == "uint16":

        def load(raw_row, out):
            bits = out.view(np.uint32)
            for i in range(raw_row.size):
                bits[i] = np.uint32(raw_row[i]) << np.uint32(16)
    else:

        def load(raw_row, out):
            for i in range(raw_row.size):
                out[i] = raw_row[i]

    return load


def block_size(checkpoints: int) -> int:
    """Parameters per block, so that a block of deltas stays in the L2 cache."""
    return int(np.clip((1 << 16) // checkpoints, 64, 2048))


# One short loop per question, few arrays in each: LLVM then vectorises every one of them.


@njit(nogil=True, cache=True, fastmath=_FAST)
def _delta(row, first, delta, total):
    for i in range(delta.size):
        d = row[i] - first[i]
        delta[i] = d
        total[i] += d


@njit(nogil=True, cache=True, fastmath=_FAST)
def _extend(delta, low, high):
    for i in range(delta.size):
        low[i] = min(low[i], delta[i])
        high[i] = max(high[i], delta[i])


@njit(nogil=True, cache=True)
def _count_kept(row, previous):
    kept = np.int32(0)
    for i in range(row.size):
        kept += np.int32(row[i] == previous[i])
    return kept


@njit(nogil=True, cache=True)
def _count_distinct(row, first, second, third, distinct):
    """Counts a value unlike the (up to three) seen; it exceeds 4 harmlessly, as only three are remembered."""
    for i in range(row.size):
        w = row[i]
        new = (w != first[i]) & (w != second[i]) & (w != third[i])
        known = distinct[i]
        second[i] = w if new & (known == 1) else second[i]
        third[i] = w if new & (known == 2) else third[i]
        distinct[i] = known + np.int32(new)


@njit(nogil=True, cache=True, fastmath=_FAST)
def _add_products(delta, mean, scale, tau_t, square, product):
    for i in range(delta.size):
        z = (delta[i] - mean[i]) * scale[i]
        square[i] += z * z
        product[i] += tau_t * z


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _describe(raw, start, stop, tau, x, scratch, r2, slope, spread, distinct, same):
    """Fill the per-parameter statistics of one block [start, stop); False if a weight is not finite.

    `x` [T, B] receives the deltas; `scratch` is float32 [8, B].
    """
    T = raw.shape[0]
    m = stop - start
    first, mean, low, high = scratch[0, :m], scratch[1, :m], scratch[2, :m], scratch[3, :m]
    second, third = scratch[4, :m], scratch[5, :m]
    distinct = distinct[:m]
    load_row(raw[0, start:stop], first)
    x[0, :m] = 0.0
    mean[:] = 0.0
    low[:] = 0.0
    high[:] = 0.0
    second[:] = first
    third[:] = first
    distinct[:] = 1
    row, previous = scratch[6, :m], scratch[7, :m]
    previous[:] = first
    for t in range(1, T):
        load_row(raw[t, start:stop], row)
        delta = x[t, :m]
        _delta(row, first, delta, mean)
        _extend(delta, low, high)
        _count_distinct(row, first, second, third, distinct)
        same[t - 1] += _count_kept(row, previous)
        row, previous = previous, row
    finite = np.float32(0.0)
    for i in range(m):
        finite += mean[i] - mean[i]  # NaN as soon as one weight is not finite
    scale, square, product = first, second, third  # no longer needed as values
    for i in range(m):
        mean[i] /= np.float32(T)
        spread[i] = high[i] - low[i]
    for i in range(m):
        scale[i] = np.float32(1.0) / spread[i] if spread[i] > 0 else np.float32(0.0)
    square[:] = 0.0
    product[:] = 0.0
    tau_square = np.float32(0.0)
    for t in range(T):
        tau_square += tau[t] * tau[t]
        _add_products(x[t, :m], mean, scale, tau[t], square, product)
    for i in range(m):
        distinct[i] = min(distinct[i], np.int32(4))
        slope[i] = product[i] / tau_square * spread[i]
    for i in range(m):
        r2[i] = min(product[i] * product[i] / (tau_square * square[i]), np.float32(1.0)) if square[i] > 0 else np.float32(0.0)
    return finite == 0


@njit(nogil=True, cache=True, fastmath=_FAST)
def _add_gram(x, m, gram):
    """gram += x xᵀ over the first m columns, lower triangle; row 0 is zero and is skipped."""
    T = x.shape[0]
    for i in range(1, T):
        j = 1
        while j + 3 <= i:
            a = np.float32(0.0)
            b = np.float32(0.0)
            c = np.float32(0.0)
            d = np.float32(0.0)
            for k in range(m):
                v = x[i, k]
                a += v * x[j, k]
                b += v * x[j + 1, k]
                c += v * x[j + 2, k]
                d += v * x[j + 3, k]
            gram[i, j] += a
            gram[i, j + 1] += b
            gram[i, j + 2] += c
            gram[i, j + 3] += d
            j += 4
        while j <= i:
            a = np.float32(0.0)
            for k in range(m):
                a += x[i, k] * x[j, k]
            gram[i, j] += a
            j += 1


@njit(nogil=True, cache=True)
def accumulate(raw, tau, block, sums, histograms, distinct_counts, slopes, same, gram):
    """Measure every parameter of a chunk; returns False as soon as a weight is not finite.

    Args:
        raw [T, n]: uint16 (bfloat16 bits) or float32.
        tau [T]: centred clock values, float32, scaled to about 1.
        block: parameters per block, see `block_size`.
        sums [2, 3], histograms [2, R2_BINS]: per population, see above.
        distinct_counts [4]: parameters with 1, 2, 3 and 4 or more distinct values.
        slopes [3]: sum of |slope|, sum of slope², largest range.
        same [T - 1]: parameters equal at both ends of an interval.
        gram [T, T]: lower triangle of the Gram matrix of deltas.
    """
    T, n = raw.shape
    x = np.empty((T, block), np.float32)
    scratch = np.empty((8, block), np.float32)
    r2, slope, spread = np.empty((3, block), np.float32)
    distinct = np.empty(block, np.int32)
    for start in range(0, n, block):
        stop = min(start + block, n)
        if not _describe(raw, start, stop, tau, x, scratch, r2, slope, spread, distinct, same):
            return False
        for i in range(stop - start):
            distinct_counts[distinct[i] - 1] += 1
            if spread[i] > 0:
                value = np.float64(r2[i])
                strong = value > STRONG_R2
                bin_ = min(int(value * R2_BINS), R2_BINS - 1)
                sums[NO_FILTER, COUNT] += 1
                sums[NO_FILTER, SUM_R2] += value
                sums[NO_FILTER, STRONG] += strong
                histograms[NO_FILTER, bin_] += 1
                slopes[0] += abs(slope[i])
                slopes[1] += slope[i] * slope[i]
                slopes[2] = max(slopes[2], spread[i])
                if spread[i] > PAPER_MIN_RANGE and distinct[i] >= PAPER_MIN_DISTINCT:
                    sums[PAPER_FILTER, COUNT] += 1
                    sums[PAPER_FILTER, SUM_R2] += value
                    sums[PAPER_FILTER, STRONG] += strong
                    histograms[PAPER_FILTER, bin_] += 1
        _add_gram(x, stop - start, gram)
    return True


@njit(nogil=True, cache=True)
def describe(raw, tau, block, r2, slope, spread, distinct):
    """Per-parameter R², slope (per unit of tau), range and distinct values (up to 4) of a chunk [T, n]."""
    T, n = raw.shape
    x = np.empty((T, block), np.float32)
    scratch = np.empty((8, block), np.float32)
    same = np.zeros(T - 1, np.int64)
    finite = True
    for start in range(0, n, block):
        stop = min(start + block, n)
        finite &= _describe(
            raw, start, stop, tau, x, scratch,
            r2[start:stop], slope[start:stop], spread[start:stop], distinct[start:stop], same,
        )  # fmt: skip
    return finite
