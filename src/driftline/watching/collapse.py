"""Is the run losing its direction? A warning of collapse, from the increments' Gram matrix alone.

The same for checkpoints on disk (`driftline watch`) and inside a trainer (`LinearityCallback`).
"""

from __future__ import annotations

import numpy as np

from driftline.linearity import skill, statistics

Array = np.ndarray

_RUN = 3  # intervals that a collapse must last before it is called one
_BASELINE = 4  # intervals before it
_FASTER = 2.0  # times the usual length of an increment
_USUAL_COSINE = 0.1  # below, there is no direction to lose


def skills_ahead(gram: Array, clock: Array) -> Array:
    """Skill of the two-point forecast of every step k >= 2 from the steps before it, [T - 2]."""
    T = clock.size
    found = []
    for k in range(2, T):
        b, still = np.zeros(T), np.zeros(T)
        b[:k] = skill.two_point(clock[:k], float(clock[k]))
        still[k - 1] = 1
        b[k] = still[k] = -1
        base = still @ gram @ still
        found.append(1 - b @ gram @ b / base if base > 0 else 0.0)
    return np.array(found)


def collapse(increments: Array, clock: Array, spans: Array) -> float | None:
    """The step at which a collapse began that has lasted three intervals or more, up to now; None without one.

    Either increments have become twice as long as usual for their learning rate; or their cosine with the last
    but one has fallen below half of the usual while the skill one interval ahead is negative and below the
    usual. Usual: the median before.

    Args:
        increments: C [T-1, T-1] between `clock` [T]; `spans`: learning rate x steps of each, or zeros.
    """
    K = clock.size - 1
    size = np.where(spans > 0, spans, np.diff(clock) if not (spans > 0).any() else np.inf)
    speed = np.sqrt(np.diag(increments)) / size
    cosine, ahead = np.full(K, np.nan), np.full(K, np.nan)
    cosine[2:] = np.diag(statistics.cosines(increments), 2)
    ahead[1:] = skills_ahead(statistics.gram_of_increments(increments), clock)
    for j in range(_BASELINE, K - _RUN + 1):
        faster = (speed[j:] > _FASTER * np.median(speed[1:j])).all()
        usual = np.nanmedian(cosine[:j])
        astray = usual > _USUAL_COSINE and (cosine[j:] < usual / 2).all()
        if faster or (astray and (ahead[j:] < min(0.0, np.nanmedian(ahead[:j]))).all()):
            return float(clock[j])
    return None
