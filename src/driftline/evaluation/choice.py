"""Is the best of the candidates worth taking over the last checkpoint?

The best of many is flattered by the choice. So it is recommended only if the paired difference holds at the 5 % level
after multiplying its p-value by the number of candidates of both kinds (Bonferroni). A forecast must also go beyond
what sampling that checkpoint at a lower temperature gives (`sharpening`), where the p-value is multiplied alike. A
checkpoint need not: it is what training made, and is taken for its score as it is sampled; whether it is better or
only surer is said.

The candidates that successive halving leaves are chosen by samples of the same problems, and that is allowed for: the
p-value of each, had it seen every problem, is below 5 % / n by chance in at most 5 % / n of sweeps, so any of n is in
at most 5 % of them, whichever is looked at and however it was chosen. Those that dropped out count among the n.
"""

from __future__ import annotations

from collections.abc import Sequence

from driftline.evaluation.records import Best, Control, Kind, Scored


def choose(winner: Scored, baseline: int, tried: Sequence[Kind], control: Control) -> tuple[Best, str]:
    """Whether the best of the candidates is worth taking over the checkpoint of step `baseline`.

    Args:
        winner: the best, which has seen every problem.
        tried: the kind of each candidate.
        control: the winner beside that checkpoint, judged as the best of so many.

    Returns:
        The choice, and the choice in words.
    """
    gain, beyond = control.gain, control.beyond_sharpening
    saved = winner.kind == "checkpoint"
    better = control.verdict == "gain" or (saved and control.verdict == "sharpening")
    best = Best(
        kind="checkpoint" if saved else "forecast",
        step=winner.step,
        baseline=baseline,
        better=better,
        surer=control.verdict == "sharpening",
        difference=gain,
        p_value_corrected=min(gain.p_value * len(tried), 1.0),
        beyond_p_value_corrected=min(beyond.p_value * len(tried), 1.0),
    )
    return best, _sentence(best, winner, _counted(tried), control)


def _sentence(best: Best, winner: Scored, counted: str, control: Control) -> str:
    step, baseline, matched = best.step, best.baseline, control.late_matched
    scores = f"{winner.avg_at_k:.3f} against {control.late.avg_at_k:.3f} of the checkpoint of step {baseline}"
    low, high = control.beyond_sharpening.interval
    more = f"{control.beyond_sharpening.mean:+.3f}, 95 %: {low:+.3f} to {high:+.3f}"
    told = f"p = {best.p_value_corrected:.2g} after counting {counted} tried"
    if best.kind == "checkpoint" and best.better:
        taken = f"Take the checkpoint of step {step}: it scores {scores} ({told})"
        if best.surer:
            return (
                f"{taken}; what it gains beyond being surer of its tokens is not told from chance ({more}): at temperature "
                f"{matched.temperature:.3g} step {baseline} scores {matched.avg_at_k:.3f}."
            )
        return f"{taken}, and it is not only surer of its tokens ({more} over that checkpoint as sure of them)."
    if best.better:
        return (
            f"Use the forecast of step {step}: it scores {scores} ({told}), and the gain goes beyond sharpening ({more} over that "
            f"checkpoint as sure of its tokens)."
        )
    if best.surer:
        return (
            f"Keep step {baseline}, at temperature {matched.temperature:.3g}, where it scores {matched.avg_at_k:.3f}: the best "
            f"forecast, of step {step}, scores {scores} ({told}), but what it gains beyond being that sure is not told from chance ({more})."
        )
    what = "other checkpoint" if best.kind == "checkpoint" else "forecast"
    return f"Keep step {baseline}: the best {what}, of step {step}, scores {scores}, which is not told from chance or worse ({told})."


def _counted(tried: Sequence[Kind]) -> str:
    what = {"forecast": "target", "checkpoint": "checkpoint"}[tried[0]] if len(set(tried)) == 1 else "candidate"
    return f"{len(tried)} {what}{'s' * (len(tried) > 1)}"
