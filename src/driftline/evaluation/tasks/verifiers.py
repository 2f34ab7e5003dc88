"""Whether an extracted answer is the gold one: as mathematics, or letter by letter."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import cache
from typing import Any

from driftline.errors import InputError

_MARKED = re.compile(r"\\boxed|\\\(|\\\[|(?<!\\)\$|\n")  # text that says itself where its mathematics is


def exact(answer: str, gold: str, *, bare: bool = True) -> float:
    """1 if they are the same text but for spaces around them."""
    return float(answer.strip() == gold.strip())


def math(answer: str, gold: str, *, bare: bool = True) -> float:
    """1 if they are the same text, or math-verify finds them equal.

    What is `bare`, the answer and nothing beside it, is read as LaTeX in a box: unboxed, math-verify reads nothing
    in `x^2+1` and 3 in `(3, 1/2)`. Otherwise it looks for an answer in the text. What it cannot read scores 0. Words are
    products of letters to it: `exact` is the verifier for them. It may take for ever: `Task` calls it apart.
    """
    if exact(answer, gold):
        return 1.0
    parse, verify = _math_verify()
    text = _in_a_box(answer) if bare else answer
    gold_read, answer_read = parse(_in_a_box(gold), parsing_timeout=None), parse(text, parsing_timeout=None)
    return float(verify(gold_read, answer_read, timeout_seconds=None))


VERIFIERS: dict[str, Callable[..., float]] = {"math": math, "exact": exact}


@cache
def _math_verify() -> tuple[Callable[..., Any], Callable[..., bool]]:
    """Its parse and verify, used once, since the first use builds a grammar, which takes as long as a hard answer.

    It warns where its own time limit is off; its alarm would end that of the process it is called in.
    """
    try:
        from math_verify import parse, verify
    except ImportError as error:
        raise InputError(f"the verifier math needs {error.name}: pip install 'driftline[eval]'") from error
    for name in ("math_verify.parser", "math_verify.grader"):
        logging.getLogger(name).setLevel(logging.ERROR)
    half = parse(r"\boxed{\frac{1}{2}}", parsing_timeout=None)
    verify(half, half, timeout_seconds=None)
    return parse, verify


def make_ready(verifier: str) -> None:
    """Load what a verifier needs, before a process is forked in which its time is bounded.

    Raises:
        InputError: it is not installed.
    """
    if verifier == "math":
        _math_verify()


def _in_a_box(text: str) -> str:
    return text if _MARKED.search(text) else f"\\boxed{{{text}}}"
