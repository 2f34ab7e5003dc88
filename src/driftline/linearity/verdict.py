"""The verdict in one sentence: straight or not, once chance is allowed for."""

from __future__ import annotations

import math

import msgspec

from driftline.files.record import UNSET, Figure, UnsetType
from driftline.linearity.drift import DriftTest, Later
from driftline.linearity.looks import AT_END, Look
from driftline.linearity.summary import (
    R2,
    Counts,
    Effect,
    HeldOutSkill,
    Jumped,
    NullR2,
    PValues,
    Shrinkage,
    Statistics,
    StraightPiece,
    Verdict,
    WithoutStart,
)

_LITTLE = 0.01  # of the weights
_SOME = 0.1  # of the drift
_LONG_MEMORY = 0.99  # a beta1 beyond which no optimizer in use goes: a verdict that holds up to there needs no word


def verdict(
    test: DriftTest | None,
    steps: list[int],
    r2: R2,
    null_r2: NullR2,
    found: Statistics,
    jumps: Jumped | UnsetType,
    look: Look | None = None,
    *,
    shrinkage: Shrinkage | UnsetType = UNSET,
) -> Verdict:
    """The `verdict` entry of summary.json, from the test and the rest of the summary.

    Args:
        look: of a run that is followed; the verdict of one that has not ended is provisional.
        shrinkage: of weights, what was left out before the test.
    """
    provisional = True if look is not None and not look.ended else UNSET
    before = "Provisional until the run ends. " if provisional else ""
    after = "" if jumps is UNSET else f" {jumps.sentence}"
    chance = f"R² median {_two(r2.median)} where a driftless walk gives {_two(null_r2.median)}"
    if test is None:
        sentence = f"{before}Cannot tell: {_too_little(steps, jumps)} ({chance}).{after}"
        return Verdict(linear=False, sentence=sentence, provisional=provisional)
    drift = found.drift
    cosine = (
        f"separated increments have cosine {_two(drift.increment_cosine)}, chance {_two(drift.null.increment_cosine)}"
    )
    growth = f"the update grows as step^{_two(drift.growth_exponent)}, chance {_two(test.null_growth)}"
    if test.linear:
        sentence = (
            f"{_where(found.regime.segments)}, drift above chance: {cosine}; {growth}; {chance}; {_use(found.skill)}."
            f"{_early(test, look)}{held_up_to(test.holds_up_to)}{_starts(test)}{_shrinks(shrinkage)}"
        )
    elif test.found:
        sentence = (
            f"Detectable, negligible: drift is told from chance, but it gives separated increments a cosine of "
            f"{test.cosine:.3f} and makes {test.share:.0%} of the squared way; {growth}; {chance}."
            f"{_starts(test)}{_shrinks(shrinkage)}"
        )
    elif shrinkage is not UNSET and shrinkage.alone:
        sentence = (
            f"Not told from chance but for shrinkage: what drifts lies along the first weights, of which {_rate(shrinkage.rate)} "
            f"are lost per step, as by weight decay; {chance}; {cosine}; {growth}."
        )
    else:
        sentence = f"Not told from chance: {chance}; {cosine}; {growth}."
    return Verdict(
        linear=test.linear,
        sentence=before + sentence + after,
        level=test.level,
        p=_p(test),
        effect=Effect(cosine=test.cosine, share=test.share, negligible=test.negligible),
        holds_up_to_beta1=UNSET if test.holds_up_to is None else test.holds_up_to,
        shrinkage=shrinkage,
        without_start=UNSET if test.later is None else _later(test.later),
        provisional=provisional,
    )


def _p(test: DriftTest) -> PValues:
    return PValues(increment_cosine=test.cosine_p, growth_exponent=test.growth_p, skill=test.skill_p)


def _later(later: Later) -> WithoutStart:
    return WithoutStart(from_=later.first, found=later.test.found, cosine=later.test.cosine, p=_p(later.test))


def _starts(test: DriftTest) -> str:
    if test.later is None or not test.of_the_start:
        return ""
    return (
        f" By the checkpoints from step {test.later.first} on alone, drift is not told from chance (a cosine of "
        f"{test.later.test.cosine:.3f} beyond it, where all give {test.cosine:.3f}): it may be of the start, where Adam's "
        "second moment has not settled and skewed gradients drift without a signal."
    )


def _shrinks(shrinkage: Shrinkage | UnsetType) -> str:
    if shrinkage is UNSET or shrinkage.share is None or shrinkage.share < _SOME:
        return ""
    return (
        f" Of the drift {shrinkage.share:.0%} lies along the first weights, of which {_rate(shrinkage.rate)} are lost per "
        "step, as by weight decay; the test is without that part."
    )


def _early(test: DriftTest, look: Look | None) -> str:
    if look is None or not look.ended or test.level == AT_END:
        return ""
    return " It was found by a look at the first checkpoints; the test over all of them does not find it."


def _rate(value: Figure) -> str:
    return "unknown" if value is None else f"{value:.1e}"


def held_up_to(beta1: float | None) -> str:
    """The sentence about the momentum up to which drift is found; none where that is long, or was not asked."""
    if beta1 is None or beta1 >= _LONG_MEMORY:
        return ""
    return (
        f" This holds up to a momentum of beta1 = {f'{beta1:g}'.removeprefix('0')}: updates that remember longer, by "
        "reused rollouts or averaged weights, would look the same without drift."
    )


def with_left_out(found: Verdict, counts: Counts) -> Verdict:
    """A verdict that says how much of the model it is not about, where that is more than a hundredth."""
    if not counts.left_out or counts.left_out <= _LITTLE * counts.total:
        return found
    share = counts.left_out / counts.total
    said = f"{found.sentence} {share:.0%} of the weights are left out, and the verdict is not about them."
    return msgspec.structs.replace(found, sentence=said)


def _too_little(steps: list[int], jumps: Jumped | UnsetType) -> str:
    usable, between = (len(steps), "") if jumps is UNSET else (jumps.judged.checkpoints, " between two jumps")
    if usable < 5:
        return f"{usable} checkpoints{between} are too few to tell drift from chance"
    return "the run stands still between some checkpoints, which leaves too little to tell drift from chance"


def _where(pieces: list[StraightPiece]) -> str:
    first, last = pieces[0], pieces[-1]
    if len(pieces) == 1:
        return f"Linear from step {first.from_} to {first.to}"
    bends = " and ".join(str(piece.from_) for piece in pieces[1:])
    return f"Linear in {len(pieces)} pieces between step {first.from_} and {last.to}, changing speed or direction at step {bends}"


def _use(held_out: HeldOutSkill) -> str:
    skills = {name: -math.inf if value is None else value for name, value in held_out.methods.items()}
    best = max(skills, key=lambda name: skills[name])
    if skills[best] > 0:
        return f"a {best} line forecasts the last checkpoints with skill {_two(skills[best])}"
    return "but no straight line forecasts the last checkpoints better than holding the one before them"


def _two(value: Figure) -> str:
    """Two decimals without the leading zero, as the field prints shares and R²."""
    if value is None or not math.isfinite(value):
        return "unknown"
    text = f"{value:.2f}"
    text = text.removeprefix("-") if float(text) == 0 else text
    return text.replace("0.", ".", 1) if abs(value) < 1 else text
