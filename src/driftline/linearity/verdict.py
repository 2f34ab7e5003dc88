"""The verdict in one sentence: straight or not, once chance is allowed for."""

from __future__ import annotations

import math
from typing import Any

from driftline.linearity.drift import LEVEL, DriftTest


def verdict(test: DriftTest | None, figures: dict[str, Any]) -> dict[str, Any]:
    """The `verdict` entry of summary.json, from the test and the rest of the summary."""
    found = _verdict(test, figures)
    if "jumps" in figures:
        found["sentence"] += " " + figures["jumps"]["sentence"]
    return found


def _verdict(test: DriftTest | None, figures: dict[str, Any]) -> dict[str, Any]:
    median, chance = _two(figures["r2"]["median"]), _two(figures["null_r2"]["median"])
    r2 = f"R² median {median} where a driftless walk gives {chance}"
    steps, drift = figures["steps"], figures["drift"]
    if test is None:
        usable = figures["jumps"]["judged"]["checkpoints"] if "jumps" in figures else len(steps)
        between = " between two jumps" if "jumps" in figures else ""
        reason = (
            f"{usable} checkpoints{between} are too few"
            if usable < 5
            else "the run stands still between some checkpoints, which leaves too little"
        )
        return {"linear": False, "sentence": f"Cannot tell: {reason} to tell drift from chance ({r2})."}
    cosine = f"separated increments have cosine {_two(drift['increment_cosine'])}, chance {_two(drift['null']['increment_cosine'])}"
    growth = f"the update grows as step^{_two(drift['growth_exponent'])}, chance {_two(test.null_growth)}"
    p = {"increment_cosine": test.cosine_p, "growth_exponent": test.growth_p, "skill": test.skill_p}
    if not test.found:
        sentence = f"Not told from chance: {r2}; {cosine}; {growth}."
        return {"linear": False, "sentence": sentence, "level": LEVEL, "p": p}
    pieces = figures["regime"]["segments"]
    if len(pieces) == 1:
        where = f"Linear from step {pieces[0]['from']} to {pieces[0]['to']}"
    else:
        bends = " and ".join(str(piece["from"]) for piece in pieces[1:])
        where = f"Linear in {len(pieces)} pieces between step {pieces[0]['from']} and {pieces[-1]['to']}, bending at step {bends}"
    best, skill = max(
        figures["skill"]["methods"].items(), key=lambda item: item[1] if math.isfinite(item[1]) else -math.inf
    )
    if skill > 0:
        use = f"a {best} line forecasts the last checkpoints with skill {_two(skill)}"
    else:
        use = "but no straight line forecasts the last checkpoints better than holding the one before them"
    return {
        "linear": True,
        "sentence": f"{where}, drift above chance: {cosine}; {growth}; {r2}; {use}.",
        "level": LEVEL,
        "p": p,
    }


def _two(value: float) -> str:
    """Two decimals without the leading zero, as the field prints shares and R²."""
    if not math.isfinite(value):
        return "unknown"
    text = f"{value:.2f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 else text
