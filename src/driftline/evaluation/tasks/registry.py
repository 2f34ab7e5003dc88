"""Which task a name means."""

from __future__ import annotations

import difflib
from pathlib import Path

from driftline.errors import InputError
from driftline.evaluation.tasks import gym, hub, jsonl, sums
from driftline.evaluation.tasks.task import Task

_LARGEST = 20_000  # problems of a task that makes its own
_SIZE = 100  # problems of a task that makes its own, unless the user says otherwise


def open_task(
    name: str,
    *,
    problems: int | None = None,
    seed: int = 0,
    verifier: str | None = None,
    extraction: str | None = None,
) -> Task:
    """The task of a name.

    Args:
        name: `sums`, `strategy` (the same problems) or `sums-of-two`; `aime24`, `aime25` or `math-500`, or `NAME:PATH` for a local copy of one; a `.jsonl` file;
            a reasoning-gym data set, as `reasoning-gym:NAME` or just `NAME`.
        problems: how many; None takes all of a file or set, and 100 of a task that makes its own.
        seed: of problems that are made.
        verifier: of a file: `math` (the default) or `exact`.
        extraction: of a file: a name of `EXTRACTORS`; default `boxed` for math, `last-line` for exact.

    Raises:
        InputError: unknown, or it cannot be read; names near misses.
    """
    if problems is not None and problems < 1:
        raise InputError(f"--problems is {problems}: it must be at least 1")
    is_file = name.endswith(".jsonl") or name.startswith("/dev/")  # /dev/stdin, or a shell's <(...)
    if not is_file and (verifier is not None or extraction is not None):
        raise InputError(f"--verifier and --extract are of a JSONL task: {name!r} has its own, leave them out")
    if is_file:
        return jsonl.task(Path(name), verifier=verifier, extraction=extraction).first(problems)
    made = name in sums.TERMS or name.partition(":")[0] not in hub.SETS
    if made and problems is not None and problems > _LARGEST:
        raise InputError(f"--problems is {problems:,}, each of which is made: it must be at most {_LARGEST:,}")
    if name in sums.TERMS:
        return sums.task(problems or _SIZE, seed, name=name)
    if name.partition(":")[0] in hub.SETS:
        return hub.task(name).first(problems)
    data_set = name.removeprefix("reasoning-gym:")
    known = gym.data_sets(data_set)
    if data_set not in known:
        raise _unknown(data_set, known)
    return gym.maker(data_set)(problems or _SIZE, seed)


def _unknown(name: str, known: list[str]) -> InputError:
    """That there is no such task, with the names nearest to it."""
    near = difflib.get_close_matches(name, known, n=3)
    hint = (
        f"did you mean {' or '.join(near)}"
        if near
        else f"give {', '.join(sums.TERMS)}, aime24, aime25, math-500, a .jsonl file"
    )
    return InputError(f"--task {name!r} is unknown: {hint}, or a reasoning-gym data set")
