"""Whether an extracted answer is the gold one: as mathematics, or letter by letter."""

from __future__ import annotations

import re
from collections.abc import Callable

from driftline.errors import InputError

_MARKED = re.compile(r"\\boxed|\\\(|\\\[|(?<!\\)\$|\n")  # text that says itself where its mathematics is


def exact(answer: str, gold: str, *, bare: bool = True) -> float:
    """1 if they are the same text but for spaces around them."""
    return float(answer.strip() == gold.strip())


def math(answer: str, gold: str, *, bare: bool = True) -> float:
    """1 if they are the same text, or math-verify finds them equal.

    What is `bare`, the answer and nothing beside it, is read as LaTeX in a box: unboxed, math-verify reads nothing
    in `x^2+1` and 3 in `(3, 1/2)`. Otherwise it looks for an answer in the text. What it cannot read, or not within
    its time limit, scores 0. Words are products of letters to it: `exact` is the verifier for them.
    """
    if exact(answer, gold):
        return 1.0
    try:
        from math_verify import parse, verify
    except ImportError as error:
        raise InputError(f"the verifier math needs {error.name}: pip install 'driftline[eval]'") from error
    return float(verify(parse(_in_a_box(gold)), parse(_in_a_box(answer) if bare else answer)))


VERIFIERS: dict[str, Callable[..., float]] = {"math": math, "exact": exact}


def _in_a_box(text: str) -> str:
    return text if _MARKED.search(text) else f"\\boxed{{{text}}}"
