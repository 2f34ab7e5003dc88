"""Reasons why checkpoints are not used, said once for all that share one."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise

from driftline.checkpoints.folder_names import step_name

_WORD = re.compile(r"[^\s'\"()]*/[^\s'\"()]*")  # a path, or a part of one that has spaces
_MOST = 6  # steps or names that are listed one by one


def grouped(reasons: Mapping[int, str] | Iterable[tuple[int, str]]) -> list[str]:
    """A sentence for each kind of reason: `5 checkpoints (10 to 50): FOLDER holds no weights yet`.

    Reasons are of a kind when they differ in nothing but paths and numbers. Where they differ in more than the
    checkpoint's folder, the first is quoted.

    Args:
        reasons: step -> reason, or pairs of them, in order of step.
    """
    kinds: dict[str, list[tuple[int, str]]] = {}
    for step, reason in reasons.items() if isinstance(reasons, Mapping) else reasons:
        kinds.setdefault(re.sub(r"\d+", "#", _WORD.sub("/", reason)), []).append((step, reason))
    return [_sentence(found) for found in kinds.values()]


def _sentence(found: Sequence[tuple[int, str]]) -> str:
    steps = list(dict.fromkeys(step for step, _ in found))
    first = found[0][1]
    if len(steps) == 1:
        return f"step {steps[0]}: {first}"
    shared = {_without_folder(step, reason) for step, reason in found}
    return f"{counted(steps)}: " + (shared.pop() if len(shared) == 1 else f"the first: {first}")


def counted(steps: Sequence[int]) -> str:
    """`5 checkpoints (10 to 50)`."""
    named = " and ".join(map(str, (steps[0], steps[-1]))) if len(steps) == 2 else f"{steps[0]} to {steps[-1]}"
    even = len({late - early for early, late in pairwise(steps)}) == 1
    if not even and len(steps) <= _MOST:
        named = ", ".join(map(str, steps))
    return f"{len(steps)} checkpoints ({named})"


def _without_folder(step: int, reason: str) -> str:
    """The reason, FOLDER in place of a path up to the folder that is named for the step."""

    def shown(match: re.Match[str]) -> str:
        parts = match[0].split("/")
        for place, part in enumerate(parts):
            named = step_name(part.rstrip(":;,.")) if "/" in match[0] else None
            if named is not None and named.step == step:
                rest = "/".join([part[len(part.rstrip(":;,.")) :], *parts[place + 1 :]])
                return "FOLDER" + rest
        return match[0]

    return _WORD.sub(shown, reason)


def remedy(steps: Collection[int], needed: int, skipped: Mapping[int, str] | None = None) -> str:
    """What to do about a run of fewer than `needed` checkpoints, and why others of it are not used.

    The base model is advised where it would be enough and step 0 is not there yet.
    """
    advice = "save more checkpoints"
    if 0 not in steps and len(steps) + 1 >= needed:
        advice += ", or add the base model with --base"
    reasons = "; ".join(grouped(skipped or {}))
    return f"{advice} (not used: {reasons})" if reasons else advice


def by_reason(reasons: Mapping[str, str], most: int = _MOST) -> list[str]:
    """A sentence for each reason why folders or tensors are not taken: `best, checkpoint-final: ...`.

    Args:
        reasons: folder, by its path, or tensor -> reason.
        most: names of a reason that are listed.
    """
    kinds: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        kinds.setdefault(reason, []).append(name.rstrip("/").rpartition("/")[2])
    return [
        f"{', '.join(names[:most])}{f' and {len(names) - most} more' if len(names) > most else ''}: {reason}"
        for reason, names in kinds.items()
    ]
