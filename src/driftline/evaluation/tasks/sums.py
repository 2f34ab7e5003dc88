"""The lab's verifiable task: add three two-digit numbers (or two), running sums written out.

Prompt ``21+28+15=``, right completion ``49;64#64``: the two running sums, then the answer.
Only the answer after ``#`` is checked, so the bare ``#64`` is right too. Problems are split by a hash of their text, so that held-out
problems are never trained on, whatever the seed.
"""

from __future__ import annotations

import random
import re
import zlib

from driftline.evaluation.tasks.task import Problem, Task

TERMS = {"sums": 3, "strategy": 3, "sums-of-two": 2}  # of a problem; sums and strategy are asked of two base models
ALPHABET = "0123456789+=;#"
MAX_NEW_TOKENS = 16
_ANSWER = re.compile(r"^[0-9;]*#([0-9]+)$")
_HELD_OUT_OF = 16  # one problem in sixteen is held out
_DRAWS = 1000  # of a problem, before there are taken to be no more
_ROUNDS = 50  # of as many draws as there are sums, which miss none


def task(size: int, seed: int, *, held_out: bool = True, name: str = "sums") -> Task:
    """Held-out problems, or training ones; a response must be all of a completion's form."""
    rows = problems(size, seed, held_out=held_out, terms=TERMS[name])
    asked = tuple(Problem(row["answer"], prompt=row["prompt"]) for row in rows)
    return Task(name, asked, "whole", _score, "sums", MAX_NEW_TOKENS)


def is_held_out(prompt: str) -> bool:
    return zlib.crc32(prompt.encode()) % _HELD_OUT_OF == 0


def problems(count: int, seed: int, *, held_out: bool = False, terms: int = 3) -> list[dict[str, str]]:
    """`count` distinct problems as rows ``{"prompt", "answer"}``, from the training or held-out part; fewer if it has fewer."""
    rng = random.Random(f"{seed}-{held_out}")
    rows: dict[str, dict[str, str]] = {}
    for _ in range(min(_DRAWS * count, _ROUNDS * 90**terms)):
        if len(rows) == count:
            break
        numbers = [rng.randint(10, 99) for _ in range(terms)]
        prompt = "+".join(map(str, numbers)) + "="
        if is_held_out(prompt) == held_out:
            rows[prompt] = {"prompt": prompt, "answer": str(sum(numbers))}
    return list(rows.values())


def solution(prompt: str, rng: random.Random, slip: float = 0.0) -> str:
    """A written-out solution; each running sum slips with probability `slip`, the error carried on."""
    first, *rest = (int(term) for term in prompt.rstrip("=").split("+"))
    total, written = first, []
    for term in rest:
        total += term
        if rng.random() < slip:
            total += rng.choice((-20, -10, -2, -1, 1, 2, 10, 20))
        total = max(total, 0)
        written.append(str(total))
    return ";".join(written) + "#" + written[-1]


def direct(answer: str) -> str:
    """The answer alone, as a completion."""
    return f"#{answer}"


def is_worked(completion: str) -> bool:
    """Whether anything stands before the answer."""
    return not completion.startswith("#")


def is_right(completion: str, answer: str) -> bool:
    """Whether the text after ``#`` is exactly the answer."""
    match = _ANSWER.match(completion.strip())
    return match is not None and match.group(1) == answer


def _score(completion: str, problem: Problem) -> float:
    return float(is_right(completion, problem.answer))
