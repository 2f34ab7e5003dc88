"""What a run says to do next: each line from its own figures, with the evidence behind it.

A line stands alone: it is told where its figures tell it, and where they do not, why it is not told. What was put to
the test, and what came of it, is in docs/advise.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from driftline._version import __version__
from driftline.checkpoints.configuration import step_text
from driftline.checkpoints.trajectory import Trajectory
from driftline.files.record import UNSET, Figure, Record, UnsetType
from driftline.forecast import useful_rate
from driftline.forecast.observations import Observations
from driftline.forecast.record import BacktestRecord
from driftline.forecast.situation import CONSTANT, FEWEST_LATE, Situation, situation_of, weaker
from driftline.forecast.useful_rate import Estimate, UsefulRate
from driftline.linearity.drift import DriftTest
from driftline.linearity.statistics import increments_gram, optimizer_memory
from driftline.linearity.summary import Optimizer
from driftline.linearity.verdict import held_up_to

QUARTER = 0.25  # of the largest useful rate: about where the best one was found
AT_ONCE = 10.0  # the largest raise that is advised at once
_ENOUGH = 10  # checkpoints with which a drift a fifth as large as its noise is found (docs/null.md)


class Advised(Record):
    """One piece of advice: what to do, why, and the figure behind it with its 95 % interval, None for an open end."""

    about: str
    do: str
    why: str
    figure: Figure | UnsetType = UNSET
    interval: list[Figure] | UnsetType = UNSET


class Untold(Record):
    """What the run does not tell, and why."""

    about: str
    why: str


class Advice(Record, kw_only=True):
    """What `driftline advise --json` prints."""

    driftline: str
    run: str
    steps: list[int]
    clock: str
    drift_found: bool
    learning_rate: Figure
    lines: list[Advised]
    not_told: list[Untold]
    optimizer: Optimizer | UnsetType = UNSET


def advise(
    trajectory: Trajectory, observed: Observations, *, clock: str = "step", backtest: BacktestRecord | None = None
) -> Advice:
    """All that the run tells; no weight is read.

    Args:
        observed: its Grams, see `observations.observe`.
        backtest: back-tests of the same; by default they are made.
    """
    known = situation_of(trajectory, observed, clock=clock, backtest=backtest)
    told = [(about, advice(known)) for about, advice in LINES.items()]
    return Advice(
        driftline=__version__,
        run=trajectory.name,
        steps=observed.steps.tolist(),
        clock=clock,
        drift_found=bool(known.test and known.test.found),
        learning_rate=known.rate,
        lines=[line for _, line in told if isinstance(line, Advised)],
        not_told=[Untold(about=about, why=why) for about, why in told if isinstance(why, str)],
        optimizer=observed.optimizer,
    )


def stop(known: Situation) -> Advised | str:
    """Whether there is still drift."""
    if known.test is None:
        return "too few checkpoints, or some that are equal, to tell drift from chance"
    if not known.test.found:
        if known.observed.steps.size < _ENOUGH:
            return f"drift is not told from chance, but {known.observed.steps.size} checkpoints would miss a weak one"
        return Advised(
            about="stop",
            do="Look at its reward, its batch and its rate before it goes on: no drift is found.",
            why=f"Over {known.observed.steps.size} checkpoints the weights do not move together in any direction more than a walk does {_p(known.test)}.",
            figure=_larger(known.test),
        )
    if known.late is None:
        return f"drift is there in the run, but fewer than {FEWEST_LATE} checkpoints of its later half to look for it once more"
    if known.late.found:
        return Advised(
            about="stop",
            do="Let it run on: it still has a direction.",
            why=f"Drift is told from chance from step {known.late_from} to {known.last} alone {_p(known.late)}.{_held(known)}",
            figure=_larger(known.late),
        )
    if not weaker(known):
        return (
            f"drift is not told from chance from step {known.late_from} to {known.last} alone, but what there was before "
            "is so weak that half a run might miss it"
        )
    return Advised(
        about="stop",
        do="Stop, or change something: no drift is left.",
        why=f"The run as a whole drifts, but from step {known.late_from} to {known.last} it is not told from chance {_p(known.late)}.",
        figure=_larger(known.late),
    )


def learning_rate(known: Situation) -> Advised | str:
    """Where the learning rate lies below the largest useful one."""
    found = _useful(known)
    if isinstance(found, str):
        return found
    factor = found.factor
    if factor.high == math.inf and QUARTER * factor.low <= 1:
        return f"these {found.span} steps are too few: the largest useful rate may be anything above {_short(factor.low)} times this one"
    if QUARTER * min(factor.low, factor.value) > AT_ONCE:
        do = f"Raise the learning rate, {_to(known, AT_ONCE)} at first, and ask again."
    elif QUARTER * factor.low > 1:
        do = f"Raise the learning rate, {_to(known, min(QUARTER * factor.value, AT_ONCE))}."
    elif factor.high < 1:
        do = "Do not raise the learning rate: it is above the largest useful one already."
    else:
        do = "Leave the learning rate as it is: it may be near the best."
    return Advised(
        about="learning rate",
        do=do,
        why=f"Persistence of {_of(found.persistence)} steps and noise {_of(found.noise)} times the drift of a step put the largest "
        f"useful rate at {_of(factor)} times this one, over {found.span} steps; about a quarter of it was best in the lab over 30 steps, "
        "less at their end; most runs above half of it collapsed, none below. It falls as the reward saturates.",
        figure=factor.value,
        interval=_ends(factor),
    )


def batch(known: Situation) -> Advised | str:
    """Whether noise or drift rules a step. How large a batch should be it does not say: that was not borne out."""
    found = _useful(known)
    if isinstance(found, str):
        return found
    noise = found.noise
    if noise.low > 2:
        do = "A larger batch would still make each step better."
    elif noise.high < 0.5:
        do = "Do not raise the batch: drift rules a step already."
    else:
        do = "Leave the batch as it is: noise and drift of a step are about equal."
    return Advised(
        about="batch",
        do=do,
        why=f"The noise of a step is {_of(noise)} times its drift, squared lengths both; where it was 9 to 11 in the lab, "
        "four times the batch was better. How large a batch should be the run does not tell.",
        figure=noise.value,
        interval=_ends(noise),
    )


def checkpoints(known: Situation) -> Advised | str:
    """Whether they lie too close together or too far apart."""
    steps = known.observed.steps
    if steps.size < 2:
        return "one checkpoint"
    gap, memory = float(np.median(np.diff(steps))), optimizer_memory(known.observed.beta1)
    kept = known.backtest.persistence if known.backtest else None
    long = kept.interval[1] if kept and kept.length and kept.interval else None
    told = f"They lie {step_text(gap)} steps apart; the optimizer remembers {memory:.0f}"
    if long is not None and gap > long / 2:
        return Advised(
            about="checkpoints",
            do=f"Save them closer together: every {_short(max(long / 4, 1))} steps or so.",
            why=f"{told}, and the drift keeps its direction for at most {_short(long)} steps, which one interval nearly spans.",
            figure=gap,
        )
    if steps.size < _ENOUGH:
        return Advised(
            about="checkpoints",
            do=f"Save more: {_ENOUGH} or more between the first and the last.",
            why=f"There are {steps.size}, with which only a strong drift is told from chance.",
            figure=float(steps.size),
        )
    if gap < memory / 5 and steps.size > 2 * _ENOUGH:
        wide = max(min(round(memory / 3), int((steps[-1] - steps[0]) / (2 * _ENOUGH))), int(gap))
        if wide > gap:
            return Advised(
                about="checkpoints",
                do=f"Save fewer: one every {wide} steps tells as much.",
                why=f"{told}, so neighbours say nearly the same.",
                figure=gap,
            )
    return Advised(about="checkpoints", do="Keep saving as you do.", why=f"{told}.", figure=gap)


def target(known: Situation) -> Advised | str:
    """How far a forecast may go."""
    if known.backtest is None:
        return "too few checkpoints to forecast one from others"
    horizon = known.backtest.recommended_horizon
    where = f"step {step_text(known.last + horizon)}"
    do = f"Extrapolate to {where}, by {known.backtest.best_method}." if horizon > 0 else "Do not extrapolate."
    why = known.backtest.sentence + (_held(known) if horizon > 0 else "")
    return Advised(about="target", do=do, why=why, figure=horizon)


def regrounding(known: Situation) -> Advised | str:
    """Whether jumps ahead in training would be worth it."""
    if known.test is None:
        return "too few checkpoints, or some that are equal, to tell drift from chance"
    if not known.test.found:
        why = f"Drift is not told from chance {_p(known.test)}: a jump would go anywhere."
        return Advised(about="re-grounding", do="Do not re-ground.", why=why, figure=_larger(known.test))
    return Advised(
        about="re-grounding",
        do="Do not re-ground to be faster: try a larger learning rate first.",
        why="In both labs re-grounding did what a larger learning rate does, and no schedule of it was faster for every seed with "
        "each at its best rate (99 runs).",
    )


def schedule(known: Situation) -> Advised | str:
    """Where the learning-rate schedule ends."""
    if not known.schedule:
        return "no schedule that ends is known of this run"
    sentence = f"{known.schedule[0].upper()}{known.schedule[1:]}"
    if known.left == 0:
        return Advised(
            about="schedule",
            do="Begin a new schedule, or stop: training on under this one changes nothing.",
            why=f"{sentence}, and the last checkpoint is of step {known.last}.",
            figure=0.0,
        )
    return Advised(
        about="schedule",
        do=f"Nothing lies beyond the {step_text(known.left)} steps that are left: forecast no further.",
        why=f"{sentence}.",
        figure=known.left,
    )


LINES: dict[str, Callable[[Situation], Advised | str]] = {
    "learning rate": learning_rate,
    "batch": batch,
    "stop": stop,
    "target": target,
    "re-grounding": regrounding,
    "checkpoints": checkpoints,
    "schedule": schedule,
}
"""What is told, in this order; a function says why where it tells nothing."""


def _useful(known: Situation) -> UsefulRate | str:
    """The estimate, or why there is none to give."""
    if known.rates >= CONSTANT:
        how = "fell to 0" if known.rates == math.inf else f"changed {_short(known.rates)}-fold"
        return f"the learning rate {how} over these checkpoints: name a stretch of nearly constant rate with --steps"
    if not (np.diag(increments_gram(known.observed.judged)) > 0).all():
        return "the weights stand still between some of the checkpoints"
    if known.useful is None:
        return f"too few checkpoints: it takes {useful_rate.FEWEST}, the first steps of a new optimizer not counted"
    if not (known.test and known.test.found):
        return "drift is not told from chance, so there is nothing to hold the noise against"
    return known.useful


def _to(known: Situation, factor: float) -> str:
    """A new rate, as a multiple of the present one where that is not known."""
    return f"to about {factor * known.rate:.2g}" if known.rate else f"to about {_short(factor)} times this one"


def _of(estimate: Estimate) -> str:
    """A figure and its interval."""
    if estimate.high == math.inf:
        return f"{_short(estimate.value)} (at least {_short(estimate.low)})"
    return f"{_short(estimate.value)} ({_short(estimate.low)} to {_short(estimate.high)})"


def _short(value: float) -> str:
    """Two digits, and no exponent where a reader wants none."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _p(test: DriftTest) -> str:
    return f"(p = {_larger(test):.2g})"


def _held(known: Situation) -> str:
    """Up to which momentum there is drift, said as the analysis says it."""
    return held_up_to(known.test.holds_up_to) if known.test else ""


def _larger(test: DriftTest) -> float:
    """The p-value at which drift would be found: of the cosine, and of the better of the other two."""
    return max(test.cosine_p, min(test.growth_p, test.skill_p))


def _ends(estimate: Estimate) -> list[Figure]:
    return [estimate.low, estimate.high if math.isfinite(estimate.high) else None]
