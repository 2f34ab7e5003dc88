"""What is said of the best of many forecasts that only sharpen, or do nothing."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from calibrating.row import Row
from calibrating.scores import difficulty
from calibrating.side import each
from driftline.evaluation.metrics import paired_difference
from driftline.evaluation.sharpening import judge

_PROBLEMS, _SAMPLES, _MEAN = 64, 4, 0.4


def said(seed: int, tried: int, sharper: float) -> str:
    """The verdict on the best of `tried` forecasts, each as good as the late model that is as sure as they are.

    Args:
        sharper: the chance of a right sample is raised to this power; 1 for forecasts that do nothing.
    """
    rng = np.random.default_rng([seed, tried])
    late = difficulty("beta", _MEAN, _PROBLEMS, rng)
    sure = late**sharper
    forecasts = rng.binomial(_SAMPLES, sure, (tried, _PROBLEMS)) / _SAMPLES
    best = forecasts[forecasts.mean(1).argmax()]
    others = (rng.binomial(_SAMPLES, chance) / _SAMPLES for chance in (late, sure))
    gain, beyond = (paired_difference(best, other, tried=tried, seed=seed) for other in others)
    return judge(gain, beyond, tried)


def rows(runs: int) -> Iterator[Row]:
    for tried, before in ((1, "2.7 %"), (4, ""), (16, "9.7 %")):
        verdicts = each(partial(said, tried=tried, sharper=0.4), runs)
        what = f"the best of {tried} forecasts that only sharpen: said to go beyond sharpening"
        note = f"said to sharpen: {verdicts.count('sharpening') / runs:.0%}"
        yield Row(what, before, verdicts.count("gain"), runs, at_most=0.05, note=note)
    for tried in (1, 16):
        verdicts = each(partial(said, tried=tried, sharper=1.0), runs)
        what = f"the best of {tried} forecasts that do nothing: a difference is found"
        yield Row(what, "", runs - verdicts.count("nothing"), runs, at_most=0.05)
