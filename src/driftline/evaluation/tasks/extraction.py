"""Which part of a response is its answer. Every rule is strict: what does not follow it has no answer."""

from __future__ import annotations

import re
from collections.abc import Callable

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_TAGS = re.compile(r"<answer>\s?(.*?)\s?</answer>", re.DOTALL)


def boxed(response: str) -> str | None:
    """What the last complete `\\boxed{...}` holds, braces balanced."""
    for start in reversed([match.end() for match in re.finditer(r"\\boxed\s*\{", response)]):
        depth = 1
        for place in range(start, len(response)):
            if response[place] in "{}" and response[place - 1] != "\\":
                depth += 1 if response[place] == "{" else -1
            if depth == 0:
                return response[start:place].strip()
    return None


def tags(response: str) -> str | None:
    """What the last `<answer>...</answer>` holds; the same as reasoning-gym's own `extract_answer`."""
    found = _TAGS.findall(response)
    return found[-1].strip() if found else None


def after_hash(response: str) -> str | None:
    """What follows the last `#` (or `####`, as in GSM8K)."""
    _, mark, rest = response.rpartition("#")
    return rest.strip() if mark else None


def last_line(response: str) -> str | None:
    """The last line that is not blank."""
    lines = response.strip().splitlines()
    return lines[-1].strip() if lines else None


def last_number(response: str) -> str | None:
    """The last number, without a sign."""
    numbers = _NUMBER.findall(response)
    return numbers[-1] if numbers else None


def whole(response: str) -> str | None:
    """All of it; math-verify then looks for the answer itself."""
    return response.strip()


EXTRACTORS: dict[str, Callable[[str], str | None]] = {
    "boxed": boxed,
    "tags": tags,
    "hash": after_hash,
    "last-line": last_line,
    "last-number": last_number,
    "whole": whole,
}
BARE = ("boxed", "tags", "hash", "last-number")  # rules that leave the answer and nothing beside it
