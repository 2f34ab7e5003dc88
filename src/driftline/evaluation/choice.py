"""Is the best of the targets worth taking over the last checkpoint?

The best of many is flattered by the choice. So it is recommended only if the paired difference holds at the 5 % level
after multiplying its p-value by the number of targets (Bonferroni), and if it goes beyond what sampling that
checkpoint at a lower temperature gives (`sharpening`).
"""

from __future__ import annotations

from driftline.evaluation.records import Best, Control

_LEVEL = 0.05


def choose(step: int, baseline: int, tried: int, control: Control, score: float) -> tuple[Best, str]:
    """Whether the forecast of `step`, the best of `tried`, is worth taking over the checkpoint of step `baseline`.

    Args:
        control: that forecast beside that checkpoint; score: of the forecast, avg@k.

    Returns:
        The choice, and the choice in words.
    """
    gain, matched = control.gain, control.late_matched
    corrected = min(gain.p_value * tried, 1.0)
    better = control.verdict == "gain" and corrected < _LEVEL
    surer = not better and gain.mean > 0 and corrected < _LEVEL
    best = Best(step=step, baseline=baseline, better=better, surer=surer, difference=gain, p_value_corrected=corrected)
    scores = f"{score:.3f} against {control.late.avg_at_k:.3f} of the checkpoint of step {baseline}"
    low, high = control.beyond_sharpening.interval
    more = f"{control.beyond_sharpening.mean:+.3f}, 95 %: {low:+.3f} to {high:+.3f}"
    told = f"p = {corrected:.2g} after counting {tried} target{'s' * (tried > 1)} tried"
    if better:
        return (
            best,
            f"Use the forecast of step {step}: it scores {scores} ({told}), and the gain goes beyond sharpening ({more} over that "
            f"checkpoint as sure of its tokens).",
        )
    if surer:
        return best, (
            f"Keep step {baseline}, at temperature {matched.temperature:.3g}, where it scores {matched.avg_at_k:.3f}: the best "
            f"forecast, of step {step}, scores {scores} ({told}), but what it gains beyond being that sure is not told from chance ({more})."
        )
    return best, (
        f"Keep step {baseline}: the best forecast, of step {step}, scores {scores}, which is not told from chance or worse ({told})."
    )
