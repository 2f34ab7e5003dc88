"""The scan's inner loops: everything measured of a block of parameters while it is in cache.

Shapes: T checkpoints, n parameters of a chunk. Deltas from the first checkpoint are taken in float32 (exact for
bfloat16 runs); sums within a block are float32, across blocks float64. Per parameter, R² is that of ordinary least
squares with intercept against the clock (paper, section 4.1), by two passes over the block: means first, then centred
sums. The Gram is of increments, not of deltas: the last ones of a run that slows down would be lost in their rounding.

What makes them fast: the rows of a block, and what is noted of each of its parameters, lie one after another at
offsets that are known when this is compiled, so that LLVM sees that they do not overlap and makes wide vectors of
every loop; so do unsigned indices (signed ones might count from the end) and counts kept in 32 bits. Rows are taken
in pairs, so that notes are loaded and stored once for two. A row that fills up the last pair is zero, as the first
row's deltas are, and changes nothing; parameters that fill up the last block stand still at zero, and are taken off
the counts again. So what is found of a parameter does not depend on where in a chunk it lies.
"""

from __future__ import annotations

import numpy as np

from driftline.compiled import njit
from driftline.linearity.raw_bits import float_of_bits, to_float32

R2_BINS = 2000  # width 0.0005: quantiles from the histogram are within 0.001
STRONG_R2 = 0.7  # the paper's threshold for a strong linear trend
PAPER_MIN_RANGE = 1e-4  # the reference code's filter: range over checkpoints above this ...
PAPER_MIN_DISTINCT = 4  # ... and at least so many distinct values

# Rows of `sums` [2, 3]: the populations; columns: count, sum of R², count of R² > 0.7.
NO_FILTER, PAPER_FILTER = 0, 1
COUNT, SUM_R2, STRONG = 0, 1, 2

_BLOCK = np.uint64(1024)  # parameters: their rows stay close to the core, and long enough for loops to pay
_CLOSE = 64  # rows of a block, of 4 KiB each, that the core's own cache holds beside the rest
_LARGEST = np.finfo(np.float32).max
_TINY, _HUGE = np.float32(1e-30), np.float32(1e30)  # sums of squares outside these are redone in float64
_SMALL, _BIG = np.float32(1e-10), np.float32(1e10)  # and so are products of a block of ranges outside these
_ZERO = np.float32(0.0)
# Where rows begin: the next three after one, and each parameter's float32 and int32 notes.
_NEXT, _SECOND_NEXT, _THIRD_NEXT = (np.uint64(row) * _BLOCK for row in (1, 2, 3))
_NOTES = 11
_MEAN, _LOW, _HIGH, _SECOND, _THIRD, _FOURTH, _SQUARE, _PRODUCT, _R2, _SLOPE, _SPREAD = (
    np.uint64(row) * _BLOCK for row in range(_NOTES)
)
_DISTINCT, _BIN = np.uint64(0), _BLOCK

# Two histograms in turn, and cells for what stands still: a cell that was just added to would have to be waited for.
_TURN, _STILL = np.int32(2048), np.int32(R2_BINS)

_compiled = njit(
    nogil=True,
    cache=True,
    fastmath={"contract", "reassoc", "nsz", "arcp"},  # not nnan or ninf: non-finite weights must be seen
    error_model="numpy",
)


@_compiled
def _row(t):
    return np.uint64(t) * _NEXT


@_compiled
def _take_first(raw, start, T, x):
    """Row 0 of x receives the first weights; row T, which may fill up the last pair, and what lies beyond n zero."""
    m = min(_BLOCK, np.uint64(raw.shape[1]) - start)
    for i in range(m):
        x[i] = to_float32(raw[0, start + i])
    x[m:_BLOCK] = _ZERO
    x[_row(T) : _row(T + 1)] = _ZERO


@_compiled
def _take_deltas(raw, start, t, x):
    """Row t of x receives the deltas from row 0; how many parameters' delta is that of the row before (in row 1: zero)."""
    m = min(_BLOCK, np.uint64(raw.shape[1]) - start)
    row, kept = _row(t), np.int32(0)
    for i in range(m):
        x[row + i] = to_float32(raw[t, start + i]) - x[i]
    x[row + m : row + _BLOCK] = _ZERO
    for i in range(_BLOCK):
        before = x[row - _NEXT + i] if t > 1 else _ZERO
        kept = np.int32(kept + (x[row + i] == before))
    return kept


@_compiled
def _extend(x, t, notes):
    """Sums and extremes over rows t and t + 1."""
    row = _row(t)
    for i in range(_BLOCK):
        a, b = x[row + i], x[row + _NEXT + i]
        notes[_MEAN + i] += a + b
        notes[_LOW + i] = min(notes[_LOW + i], min(a, b))
        notes[_HIGH + i] = max(notes[_HIGH + i], max(a, b))


@_compiled
def _with(delta, second, third, fourth):
    """The first three distinct deltas other than 0, now with this one; 0 for those not seen yet."""
    second = delta if second == 0 else second
    third = delta if (third == 0) & (delta != second) else third
    fourth = delta if (fourth == 0) & (delta != second) & (delta != third) else fourth
    return second, third, fourth


@_compiled
def _distinguish(x, t, notes):
    """Distinct deltas among rows t and t + 1; how many parameters still have fewer than four values."""
    row, few = _row(t), np.int32(0)
    for i in range(_BLOCK):
        seen = notes[_SECOND + i], notes[_THIRD + i], notes[_FOURTH + i]
        seen = _with(x[row + _NEXT + i], *_with(x[row + i], *seen))
        notes[_SECOND + i], notes[_THIRD + i], notes[_FOURTH + i] = seen
        few = np.int32(few + (seen[2] == 0))
    return few


@_compiled
def _centre(x, T, tau, notes, integers):
    """Means, ranges, distinct values, the first row's part of centred sums; False if a weight is not finite."""
    finite = np.int32(0)
    for i in range(_BLOCK):
        total, spread = notes[_MEAN + i], notes[_HIGH + i] - notes[_LOW + i]
        finite = np.int32(finite + ((abs(total) <= _LARGEST) & (spread <= _LARGEST)))  # false for NaN and infinity
        mean = total / np.float32(T)
        notes[_MEAN + i] = mean
        notes[_SPREAD + i] = spread
        notes[_SQUARE + i] = mean * mean
        notes[_PRODUCT + i] = -tau[0] * mean
    for i in range(_BLOCK):
        second, third, fourth = notes[_SECOND + i] != 0, notes[_THIRD + i] != 0, notes[_FOURTH + i] != 0
        integers[_DISTINCT + i] = np.int32(1 + second + third + fourth)
    if T % 2 == 0:  # the row that fills up the last pair: the mean adds nothing to centred sums
        for i in range(_BLOCK):
            x[_row(T) + i] = notes[_MEAN + i]
    return finite == _BLOCK


@_compiled
def _add_centred(x, t, tau, notes):
    """Centred sums over rows t and t + 1."""
    row, a, b = _row(t), tau[t], tau[t + 1]
    for i in range(_BLOCK):
        y, z = x[row + i] - notes[_MEAN + i], x[row + _NEXT + i] - notes[_MEAN + i]
        notes[_SQUARE + i] += y * y + z * z
        notes[_PRODUCT + i] += a * y + b * z


@_compiled
def _fit(tau_square, notes):
    """R² and slopes; how many parameters' squares leave float32's range."""
    extreme = np.int32(0)
    for i in range(_BLOCK):
        square, product = notes[_SQUARE + i], notes[_PRODUCT + i]
        inside = (square > _TINY) & (square < _HUGE)
        extreme = np.int32(extreme + ((notes[_SPREAD + i] > 0) & ~inside))
        slope = product / tau_square
        notes[_SLOPE + i] = slope
        notes[_R2 + i] = min(slope * (product / square), np.float32(1.0)) if inside else _ZERO
    return extreme


@_compiled
def _fit_in_float64(x, T, tau, notes):
    """R² and slopes of the parameters whose squares leave float32's range."""
    for i in range(_BLOCK):
        if notes[_SPREAD + i] > 0 and not _TINY < notes[_SQUARE + i] < _HUGE:
            mean = 0.0
            for t in range(1, T):
                mean += x[_row(t) + i]
            mean /= T
            square = product = tau_square = 0.0
            for t in range(T):
                z = (x[_row(t) + i] if t else 0.0) - mean
                square += z * z
                product += tau[t] * z
                tau_square += tau[t] * tau[t]
            notes[_R2 + i] = min(product * product / (tau_square * square), 1.0)
            notes[_SLOPE + i] = product / tau_square


@_compiled
def _describe(raw, start, tau, x, notes, integers, kept):
    """Note each parameter of one block; False if a weight is not finite."""
    T = raw.shape[0]
    _take_first(raw, start, T, x)
    notes[:_SQUARE] = _ZERO
    for i in range(_BLOCK):
        notes[_MEAN + i] = _ZERO * x[i]  # NaN where the first weight is not finite
    few = np.int32(1)
    for t in range(1, T, 2):
        for taken in range(t, min(t + 2, T)):
            kept[taken] += _take_deltas(raw, start, taken, x)
        _extend(x, t, notes)
        if few:
            few = _distinguish(x, t, notes)
    if not _centre(x, T, tau, notes, integers):
        return False
    for t in range(1, T, 2):
        _add_centred(x, t, tau, notes)
    tau_square = _ZERO
    for t in range(T):
        tau_square += tau[t] * tau[t]
    if _fit(tau_square, notes):
        _fit_in_float64(x, T, tau, notes)
    return True


@_compiled
def _largest(values, first):
    """The largest size in a row, by its bits: LLVM makes vectors of the largest of integers, not of floats."""
    bits, largest = values.view(np.int32), np.int32(0)
    for i in range(_BLOCK):
        largest = max(largest, np.int32(bits[first + i] & np.int32(0x7FFFFFFF)))
    return float_of_bits(np.uint32(largest))


@_compiled
def _add_population(member, notes, sums):
    """Count, sum of R² and count of strong R² of a block's members."""
    count, strong, total = np.int32(0), np.int32(0), _ZERO  # of one block; blocks are added in float64
    for i in range(_BLOCK):
        r2 = notes[_R2 + i]
        count = np.int32(count + member[i])
        strong = np.int32(strong + (member[i] & (r2 > np.float32(STRONG_R2))))
        total += r2 if member[i] else _ZERO
    sums[COUNT] += count
    sums[SUM_R2] += total
    sums[STRONG] += strong


@_compiled
def _add_shapes(notes, integers, distinct_counts, slopes):
    """Distinct values and slopes of a block."""
    one = two = three = np.int32(0)
    for i in range(_BLOCK):
        distinct = integers[_DISTINCT + i]
        one = np.int32(one + (distinct == 1))
        two = np.int32(two + (distinct == 2))
        three = np.int32(three + (distinct == 3))
    distinct_counts[0] += one
    distinct_counts[1] += two
    distinct_counts[2] += three
    distinct_counts[3] += np.int64(_BLOCK) - one - two - three
    absolute = square = 0.0  # squares of tiny or huge slopes leave float32's range
    for i in range(_BLOCK):
        slope = np.float64(notes[_SLOPE + i])
        absolute += abs(slope)
        square += slope * slope
    slopes[0] += absolute
    slopes[1] += square


@_compiled
def _add_to_histogram(notes, integers, moved, paper, both, histogram):
    """Members of both populations at once: cells count those of the paper's filter in their upper 32 bits."""
    for i in range(_BLOCK):
        bin_ = min(np.int32(notes[_R2 + i] * np.float32(R2_BINS)), np.int32(R2_BINS - 1))
        lane = np.int32(i & np.uint64(15))
        integers[_BIN + i] = bin_ + (lane & np.int32(1)) * _TURN if moved[i] else _STILL + lane
    for i in range(_BLOCK):
        both[i] = np.int64(moved[i]) | np.int64(paper[i]) << 32
    for i in range(_BLOCK):
        histogram[integers[_BIN + i]] += both[i]


@_compiled
def _take_increments(raw, start, x):
    """Rows 1 to T - 1 of x receive the increments from checkpoint to checkpoint, in place of the deltas."""
    T, n = raw.shape
    m = min(_BLOCK, np.uint64(n) - start)
    for t in range(1, T):
        row = _row(t)
        for i in range(m):
            x[row + i] = to_float32(raw[t, start + i]) - to_float32(raw[t - 1, start + i])


@_compiled
def _plus(sums, a, b):
    return sums[0] + a * b[0], sums[1] + a * b[1], sums[2] + a * b[2], sums[3] + a * b[3]


@_compiled
def _put(sums, row, j):
    row[j], row[j + 1], row[j + 2], row[j + 3] = _plus(sums, 1.0, row[j : j + 4])


@_compiled
def _add_tile(x, i, j, gram):
    """Products of rows i to i + 3 with rows j to j + 3: each value is loaded once for four of them."""
    left, right = _row(i), _row(j)
    sums0 = sums1 = sums2 = sums3 = (_ZERO, _ZERO, _ZERO, _ZERO)
    for k in range(_BLOCK):
        b = x[right + k], x[right + _NEXT + k], x[right + _SECOND_NEXT + k], x[right + _THIRD_NEXT + k]
        sums0 = _plus(sums0, x[left + k], b)
        sums1 = _plus(sums1, x[left + _NEXT + k], b)
        sums2 = _plus(sums2, x[left + _SECOND_NEXT + k], b)
        sums3 = _plus(sums3, x[left + _THIRD_NEXT + k], b)
    _put(sums0, gram[i], j)
    _put(sums1, gram[i + 1], j)
    _put(sums2, gram[i + 2], j)
    _put(sums3, gram[i + 3], j)


@_compiled
def _add_gram(x, T, gram):
    """gram += x xᵀ, its lower triangle by tiles of four rows and columns, these some at a time: their rows stay close."""
    for first in range(0, T, _CLOSE):
        for i in range(first, T, 4):
            for j in range(first, min(i + 1, first + _CLOSE), 4):
                _add_tile(x, i, j, gram)


@_compiled
def _add_gram_in_float64(x, T, gram):
    """The same of weights or increments whose squares leave float32's range."""
    for i in range(T):
        for j in range(i + 1):
            left, right, total = _row(i), _row(j), 0.0
            for k in range(_BLOCK):
                total += np.float64(x[left + k]) * np.float64(x[right + k])
            gram[i, j] += total


@_compiled
def _memory(tau):
    """The clock [rows], zero beyond T, and a block's rows, notes and integers, where rows - 1 is a multiple of four."""
    rows = 1 + tau.size + -tau.size % 4
    clock = np.zeros(rows, np.float32)
    clock[: tau.size] = tau
    x, notes = np.zeros(rows * _BLOCK, np.float32), np.zeros(_NOTES * _BLOCK, np.float32)
    return clock, x, notes, np.zeros(2 * _BLOCK, np.int32)


@_compiled
def accumulate(raw, tau, sums, histograms, distinct_counts, slopes, same, gram):
    """Measure every parameter of a chunk; returns False as soon as a weight is not finite.

    Args:
        raw [T, n]: uint16 (bfloat16 bits) or float32.
        tau [T]: centred clock values, float32, scaled to about 1.
        sums [2, 3], histograms [2, R2_BINS]: per population, see above.
        distinct_counts [4]: parameters with 1, 2, 3 and 4 or more distinct values.
        slopes [3]: sum of |slope|, sum of slope², largest range.
        same [T - 1]: parameters equal at both ends of an interval.
        gram [T, T]: lower triangle of the Gram matrix of the first checkpoint's weights, in row 0, and the increments.
    """
    T, n = raw.shape
    clock, x, notes, integers = _memory(tau)
    products, kept = np.zeros((clock.size, clock.size)), np.zeros(clock.size, np.int64)
    moved, paper, both = np.empty(_BLOCK, np.bool_), np.empty(_BLOCK, np.bool_), np.empty(_BLOCK, np.int64)
    histogram = np.zeros(2 * _TURN, np.int64)
    for start in range(0, n, np.int64(_BLOCK)):
        if not _describe(raw, np.uint64(start), clock, x, notes, integers, kept):
            return False
        _add_shapes(notes, integers, distinct_counts, slopes)
        for i in range(_BLOCK):
            spread = notes[_SPREAD + i]
            moved[i] = spread > 0
            paper[i] = (spread > np.float32(PAPER_MIN_RANGE)) & (integers[_DISTINCT + i] >= PAPER_MIN_DISTINCT)
        _add_population(moved, notes, sums[NO_FILTER])
        _add_population(paper, notes, sums[PAPER_FILTER])
        _add_to_histogram(notes, integers, moved, paper, both, histogram)
        widest = _largest(notes, _SPREAD)
        slopes[2] = max(slopes[2], np.float64(widest))
        _take_increments(raw, np.uint64(start), x)
        if _largest(x, np.uint64(0)) < _BIG and (widest == 0 or _SMALL < widest < _BIG):
            _add_gram(x, T, products)
        else:
            _add_gram_in_float64(x, T, products)
    filled = -n % np.int64(_BLOCK)
    distinct_counts[0] -= filled
    for turn in range(0, histogram.size, _TURN):
        for bin_ in range(R2_BINS):
            histograms[NO_FILTER, bin_] += histogram[turn + bin_] & 0xFFFFFFFF
            histograms[PAPER_FILTER, bin_] += histogram[turn + bin_] >> 32
    for i in range(T):
        for j in range(i + 1):
            gram[i, j] += products[i, j]
    for t in range(1, T):
        same[t - 1] += kept[t] - filled
    return True


@_compiled
def describe(raw, tau, r2, slope, spread, distinct):
    """Per-parameter R², slope (per unit of tau), range and distinct values (up to 4) of a chunk [T, n]."""
    clock, x, notes, integers = _memory(tau)
    kept = np.zeros(clock.size, np.int64)
    finite = True
    for start in range(0, raw.shape[1], np.int64(_BLOCK)):
        finite &= _describe(raw, np.uint64(start), clock, x, notes, integers, kept)
        for i in range(min(np.int64(_BLOCK), raw.shape[1] - start)):
            r2[start + i] = notes[_R2 + np.uint64(i)]
            slope[start + i] = notes[_SLOPE + np.uint64(i)]
            spread[start + i] = notes[_SPREAD + np.uint64(i)]
            distinct[start + i] = integers[_DISTINCT + np.uint64(i)]
    return finite
