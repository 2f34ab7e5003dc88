"""Does the learning rate change so that the step is the wrong clock?"""

from __future__ import annotations

from driftline.checkpoints import configuration
from driftline.checkpoints.configuration import LoggedRun
from driftline.files.record import UNSET, UnsetType
from driftline.linearity.summary import LearningRate

_ENOUGH = 0.99  # a rate that stays above this share of its highest makes no difference to the clock


def changed(run: LoggedRun) -> LearningRate | UnsetType:
    """How the learning rate changed over the checkpoints; UNSET where it did not, is not known, or jumps rule the clock."""
    if run.regrounded:
        return UNSET
    rates = configuration.rates_of(run)
    known = [rate for step, rate in sorted(rates.known.items()) if run.steps[0] <= step <= run.steps[-1]]
    if not known or min(known) >= _ENOUGH * max(known):
        return UNSET
    first, last, highest, lowest = known[0], known[-1], max(known), min(known)
    if last < _ENOUGH * highest:
        how = f"fell by {_share(1 - last / highest)} over the run, from {highest:.3g} to {last:.3g}"
    elif first < _ENOUGH * highest:
        how = f"rose over the run, from {first:.3g} to {highest:.3g}"
    else:
        how = f"varied over the run, between {lowest:.3g} and {highest:.3g}"
    return LearningRate(
        highest=highest,
        lowest=lowest,
        last=last,
        end=UNSET if rates.end is None else rates.end,
        sentence=f"The learning rate {how}, so equal numbers of steps are not equal amounts of training{configuration.rate_remedy(run, 'add')}.",
    )


def _share(share: float) -> str:
    """In whole percent, and never more than it was: 99.6 % is no 100 %."""
    return f"{100 if share == 1 else min(int(100 * share + 0.5), 99)} %"
