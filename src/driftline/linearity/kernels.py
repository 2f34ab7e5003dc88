"""The scan's inner loops: everything measured of a block of parameters while it is in cache.

Shapes: T checkpoints, n parameters of a chunk, B parameters of a block. Deltas from the first
checkpoint are taken in float32 (exact for bfloat16 runs); sums across blocks are float64.
Per parameter, R² is that of ordinary least squares with intercept against the clock (paper, section
4.1), by two passes over the block: means first, then centred sums, scaled by the parameter's range so
that neither tiny nor huge updates leave float32.
"""

from __future__ import annotations

import numpy as np
from numba.extending import overload

from driftline.compiled import njit

R2_BINS = 2000  # width 0.0005: quantiles from the histogram are within 0.001
STRONG_R2 = 0.7  # the paper's threshold for a strong linear trend
PAPER_MIN_RANGE = 1e-4  # the reference code's filter: range over checkpoints above this ...
PAPER_MIN_DISTINCT = 4  # ... and at least so many distinct values

# Rows of `sums` [2, 3]: the populations; columns: count, sum of R², count of R² > 0.7.
NO_FILTER, PAPER_FILTER = 0, 1
COUNT, SUM_R2, STRONG = 0, 1, 2

_LARGEST = np.finfo(np.float32).max
_TINY, _HUGE = 1e-30, 1e30  # sums of squares outside these are redone in float64
_SMALL, _BIG = 1e-10, 1e10  # products of a block whose largest range is outside these are taken in float64

_FAST = {"contract", "reassoc", "nsz", "arcp"}  # not nnan or ninf: non-finite weights must be seen


def load_row(raw_row, out):
    """Values of a row of raw bits as float32 (numba overload below: uint16 is bfloat16, float32 is itself)."""
    raise TypeError("only called from compiled code")


@overload(load_row)
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
    """Parameters per block, so that a block of deltas stays close to the core."""
    return int(np.clip((1 << 16) // checkpoints, 128, 1024))


# One short loop per question, few arrays in each, no two of them parts of one allocation: LLVM then sees
# that they do not overlap and vectorises every loop (five times faster than rows of one array).


@njit(nogil=True, cache=True)
def _row(block):
    return np.empty(block, np.float32)


@njit(nogil=True, cache=True)
def _subtract(delta, first):
    for i in range(delta.size):
        delta[i] -= first[i]


@njit(nogil=True, cache=True)
def _count_kept(delta, previous):
    kept = np.int32(0)
    for i in range(delta.size):
        kept += np.int32(delta[i] == previous[i])
    return kept


@njit(nogil=True, cache=True, fastmath=_FAST)
def _extend(x, t, m, total, low, high):
    """Sums and extremes over rows t to t + 3: four rows at a time, so that each is loaded once for four."""
    x0, x1, x2, x3 = x[t], x[t + 1], x[t + 2], x[t + 3]
    for i in range(m):
        a, b, c, d = x0[i], x1[i], x2[i], x3[i]
        total[i] += (a + b) + (c + d)
        low[i] = min(low[i], min(min(a, b), min(c, d)))
        high[i] = max(high[i], max(max(a, b), max(c, d)))


@njit(nogil=True, cache=True)
def _count_distinct(delta, second, third, distinct):
    """Counts a delta unlike the (up to three) seen, 0 among them; it exceeds 4 harmlessly."""
    for i in range(delta.size):
        d = delta[i]
        new = (d != 0) & (d != second[i]) & (d != third[i])
        known = distinct[i]
        second[i] = d if new & (known == 1) else second[i]
        third[i] = d if new & (known == 2) else third[i]
        distinct[i] = known + np.int32(new)


@njit(nogil=True, cache=True, fastmath=_FAST)
def _add_products(x, t, m, tau, mean, square, product):
    """Centred sums over rows t to t + 3."""
    a, b, c, d = tau[t], tau[t + 1], tau[t + 2], tau[t + 3]
    x0, x1, x2, x3 = x[t], x[t + 1], x[t + 2], x[t + 3]
    for i in range(m):
        z0 = x0[i] - mean[i]
        z1 = x1[i] - mean[i]
        z2 = x2[i] - mean[i]
        z3 = x3[i] - mean[i]
        square[i] += (z0 * z0 + z1 * z1) + (z2 * z2 + z3 * z3)
        product[i] += (a * z0 + b * z1) + (c * z2 + d * z3)


@njit(nogil=True, cache=True)
def _r2_in_float64(x, i, tau):
    """R² and slope of one parameter whose squares leave float32's range."""
    mean = 0.0
    for t in range(tau.size):
        mean += x[t, i]
    mean /= tau.size
    square = product = tau_square = 0.0
    for t in range(tau.size):
        z = x[t, i] - mean
        square += z * z
        product += tau[t] * z
        tau_square += tau[t] * tau[t]
    return min(product * product / (tau_square * square), 1.0), product / tau_square


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _describe(raw, start, stop, tau, x, scratch, r2, slope, spread, distinct, same):
    """Fill the per-parameter statistics of one block [start, stop); False if a weight is not finite.

    `x` [T, B] receives the deltas; `scratch` is six float32 arrays [B].
    """
    T = raw.shape[0]
    m = stop - start
    first, mean, low, high, second, third = scratch
    first, mean, low, high, second, third = first[:m], mean[:m], low[:m], high[:m], second[:m], third[:m]
    distinct = distinct[:m]
    load_row(raw[0, start:stop], first)
    x[0, :m] = 0.0
    for i in range(m):
        mean[i] = 0.0 * first[i]  # NaN where the first weight is not finite
    low[:] = 0.0
    high[:] = 0.0
    second[:] = 0.0
    third[:] = 0.0
    distinct[:] = 1
    for t in range(1, T):
        delta = x[t, :m]
        load_row(raw[t, start:stop], delta)
        _subtract(delta, first)
        _count_distinct(delta, second, third, distinct)
        same[t - 1] += _count_kept(delta, x[t - 1, :m])
    whole = T - T % 4
    for t in range(0, whole, 4):
        _extend(x, t, m, mean, low, high)
    for t in range(whole, T):
        for i in range(m):
            mean[i] += x[t, i]
            low[i] = min(low[i], x[t, i])
            high[i] = max(high[i], x[t, i])
    finite = np.int32(0)
    for i in range(m):
        finite += np.int32((abs(mean[i]) <= _LARGEST) & (high[i] - low[i] <= _LARGEST))  # false for NaN and infinity
    if finite < m:
        return False
    square, product = second, third  # no longer needed as values
    square[:] = 0.0
    product[:] = 0.0
    for i in range(m):
        mean[i] /= np.float32(T)
        spread[i] = high[i] - low[i]
    for t in range(0, whole, 4):
        _add_products(x, t, m, tau, mean, square, product)
    for t in range(whole, T):
        for i in range(m):
            z = x[t, i] - mean[i]
            square[i] += z * z
            product[i] += tau[t] * z
    tau_square = np.float32(0.0)
    for t in range(T):
        tau_square += tau[t] * tau[t]
    extreme = np.int32(0)
    for i in range(m):
        distinct[i] = min(distinct[i], np.int32(4))
        inside = (square[i] > _TINY) & (square[i] < _HUGE)
        extreme += np.int32((spread[i] > 0) & ~inside)
        slope[i] = product[i] / tau_square
        r2[i] = min(slope[i] * (product[i] / square[i]), np.float32(1.0)) if inside else np.float32(0.0)
    if extreme:
        for i in range(m):
            if spread[i] > 0 and not _TINY < square[i] < _HUGE:
                r2[i], slope[i] = _r2_in_float64(x, i, tau)
    return True


@njit(nogil=True, cache=True, fastmath=_FAST)
def _put(first, row):
    """Copy the first weights into a row; their largest size."""
    largest = np.float32(0.0)
    for i in range(first.size):
        row[i] = first[i]
        largest = max(largest, abs(first[i]))
    return largest


@njit(nogil=True, cache=True, fastmath=_FAST)
def _add_gram(x, m, gram):
    """gram += x xᵀ over the first m columns, lower triangle."""
    T = x.shape[0]
    for i in range(T):
        j = 0
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


@njit(nogil=True, cache=True, fastmath=_FAST)
def _add_gram_in_float64(x, m, gram):
    """The same of weights or deltas whose squares leave float32's range."""
    T = x.shape[0]
    for i in range(T):
        for j in range(i + 1):
            a = 0.0
            for k in range(m):
                a += np.float64(x[i, k]) * np.float64(x[j, k])
            gram[i, j] += a


@njit(nogil=True, cache=True, fastmath=_FAST)
def _tally(r2, member, bins, sums, histogram):
    """Add the R² of a population's members to its sums [3] and histogram [R2_BINS]."""
    count = np.int32(0)
    for i in range(r2.size):
        count += np.int32(member[i])
    if count == 0:
        return
    strong = np.int32(0)
    total = np.float32(0.0)  # of one block; blocks are added in float64
    for i in range(r2.size):
        strong += np.int32(member[i] & (r2[i] > np.float32(STRONG_R2)))
        total += r2[i] if member[i] else np.float32(0.0)
        bins[i] = min(np.int32(r2[i] * np.float32(R2_BINS)), np.int32(R2_BINS - 1))
    sums[COUNT] += count
    sums[SUM_R2] += total
    sums[STRONG] += strong
    for i in range(r2.size):
        histogram[bins[i]] += member[i]


@njit(nogil=True, cache=True, fastmath=_FAST)
def _tally_shapes(slope, spread, distinct, distinct_counts, slopes):
    one, two, three = np.int32(0), np.int32(0), np.int32(0)
    for i in range(slope.size):
        one += np.int32(distinct[i] == 1)
        two += np.int32(distinct[i] == 2)
        three += np.int32(distinct[i] == 3)
    absolute = np.float64(0.0)  # squares of tiny or huge slopes leave float32's range
    square = np.float64(0.0)
    widest = np.float32(0.0)
    for i in range(slope.size):
        one_slope = np.float64(slope[i])
        absolute += abs(one_slope)
        square += one_slope * one_slope
        widest = max(widest, spread[i])
    distinct_counts[0] += one
    distinct_counts[1] += two
    distinct_counts[2] += three
    distinct_counts[3] += slope.size - one - two - three
    slopes[0] += absolute
    slopes[1] += square
    slopes[2] = max(slopes[2], np.float64(widest))
    return widest


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
        gram [T, T]: lower triangle of the Gram matrix of the first checkpoint's weights, in row 0, and the deltas.
    """
    T, n = raw.shape
    x = np.empty((T, block), np.float32)
    scratch = (_row(block), _row(block), _row(block), _row(block), _row(block), _row(block))
    r2, slope, spread = _row(block), _row(block), _row(block)
    distinct, bins = np.empty(block, np.int32), np.empty(block, np.int32)
    member = np.empty(block, np.bool_)
    for start in range(0, n, block):
        stop = min(start + block, n)
        m = stop - start
        if not _describe(raw, start, stop, tau, x, scratch, r2[:m], slope[:m], spread[:m], distinct[:m], same):
            return False
        widest = _tally_shapes(slope[:m], spread[:m], distinct[:m], distinct_counts, slopes)
        for i in range(m):
            member[i] = spread[i] > 0
        _tally(r2[:m], member[:m], bins, sums[NO_FILTER], histograms[NO_FILTER])
        for i in range(m):
            member[i] = (spread[i] > PAPER_MIN_RANGE) & (distinct[i] >= PAPER_MIN_DISTINCT)
        _tally(r2[:m], member[:m], bins, sums[PAPER_FILTER], histograms[PAPER_FILTER])
        largest = _put(scratch[0][:m], x[0, :m])  # the first weights, where their delta of zero was
        if largest < _BIG and (widest == 0 or _SMALL < widest < _BIG):
            _add_gram(x, m, gram)
        else:
            _add_gram_in_float64(x, m, gram)
    return True


@njit(nogil=True, cache=True)
def describe(raw, tau, block, r2, slope, spread, distinct):
    """Per-parameter R², slope (per unit of tau), range and distinct values (up to 4) of a chunk [T, n]."""
    T, n = raw.shape
    x = np.empty((T, block), np.float32)
    scratch = (_row(block), _row(block), _row(block), _row(block), _row(block), _row(block))
    same = np.zeros(T - 1, np.int64)
    finite = True
    for start in range(0, n, block):
        stop = min(start + block, n)
        finite &= _describe(
            raw,
            start,
            stop,
            tau,
            x,
            scratch,
            r2[start:stop],
            slope[start:stop],
            spread[start:stop],
            distinct[start:stop],
            same,
        )
    return finite
