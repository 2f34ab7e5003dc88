"""Is the run losing its direction, or moving further than usual? From the increments' Gram matrix alone.

The same for checkpoints on disk (`driftline watch`) and inside a trainer (`LinearityCallback`). Neither is a collapse:
a run whose reward stands still loses its direction too, and one that collapses may never have had one.
"""

from __future__ import annotations

import numpy as np

from driftline.linearity import null, skill, statistics

Array = np.ndarray

ENOUGH = 12  # checkpoints at which a run that learns shows drift; one of `looks.LOOKS`
_RUN = 3  # intervals that it must last
_BASELINE = 4  # intervals before it
_FURTHER = 2.0  # times the usual length of an increment
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


def direction_lost(increments: Array, clock: Array, beta1: float) -> float | None:
    """The step since which the run has had no direction, for three intervals or more, up to now; None where it has one.

    The cosine of increments with the last but one, corrected for the momentum that the noise shares at that spacing, has fallen
    below half of the usual while the skill one interval ahead is negative and below the usual. Usual: the median before.

    Args:
        increments: C [T-1, T-1] between `clock` [T], which is in steps.
    """
    K = clock.size - 1
    shared = null.increment_correlation(clock, beta1)
    np.fill_diagonal(shared, 0.0)
    beyond = (statistics.cosines(increments) - shared) / (1 - shared)  # drift's share, whatever momentum the rest has
    cosine, ahead = np.full(K, np.nan), np.full(K, np.nan)
    cosine[2:] = np.diag(beyond, 2)
    ahead[1:] = skills_ahead(statistics.gram_of_increments(increments), clock)
    for j in range(_BASELINE, K - _RUN + 1):
        usual = np.nanmedian(cosine[:j])
        astray = usual > _USUAL_COSINE and (cosine[j:] < usual / 2).all()
        if astray and (ahead[j:] < min(0.0, np.nanmedian(ahead[:j]))).all():
            return float(clock[j])
    return None


def moving_further(increments: Array, clock: Array, rates: Array) -> float | None:
    """The step since which increments have been twice as long as usual, for three intervals or more; None without one.

    For their learning rate and spacing, whatever the run is: a walk's are as long as rate x sqrt(steps), a line's as
    rate x steps. What is longer than usual by both counts.

    Args:
        increments: C [T-1, T-1] between `clock` [T]; rates: mean learning rate of each, zeros where it is not known.
    """
    dt, K = np.diff(clock), clock.size - 1
    rate = np.where(rates > 0, rates, np.inf) if (rates > 0).any() else np.ones(K)
    lengths = np.sqrt(np.clip(np.diag(increments), 0, None)) / rate
    for j in range(_BASELINE, K - _RUN + 1):
        if all((speed[j:] > _FURTHER * np.median(speed[1:j])).all() for speed in (lengths / np.sqrt(dt), lengths / dt)):
            return float(clock[j])
    return None
