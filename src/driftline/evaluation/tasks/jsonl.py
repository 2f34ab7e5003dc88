"""A task of the user's own: JSON lines with `prompt` or `messages`, and `answer`."""

from __future__ import annotations

from pathlib import Path

from driftline.errors import InputError
from driftline.evaluation.tasks.extraction import EXTRACTORS
from driftline.evaluation.tasks.task import Problem, Task, judged
from driftline.evaluation.tasks.verifiers import VERIFIERS
from driftline.prompts import read_rows

_DEFAULT_EXTRACTION = {"math": "boxed", "exact": "last-line"}


def task(path: Path, *, verifier: str | None = None, extraction: str | None = None) -> Task:
    """The task that a file holds.

    Raises:
        InputError: the file or a row cannot be used, or a name is unknown.
    """
    verifier = verifier or "math"
    if verifier not in VERIFIERS:
        raise InputError(f"--verifier {verifier!r} is unknown: choose {' or '.join(VERIFIERS)}")
    extraction = extraction or _DEFAULT_EXTRACTION[verifier]
    if extraction not in EXTRACTORS:
        raise InputError(f"--extract {extraction!r} is unknown: choose {', '.join(EXTRACTORS)}")
    problems = []
    for index, row in enumerate(read_rows(path)):
        answer = row.get("answer")
        if isinstance(answer, bool) or not isinstance(answer, (str, int, float)) or not str(answer).strip():
            raise InputError(f"{path}, row {index}, has no answer: add one, a text or a number")
        if ("prompt" in row) == ("messages" in row):
            raise InputError(f"{path}, row {index}, needs either prompt or messages: give one of them")
        problems.append(Problem(str(answer), row.get("prompt"), row.get("messages")))
    return judged(str(path), problems, verifier, extraction, 1024)
