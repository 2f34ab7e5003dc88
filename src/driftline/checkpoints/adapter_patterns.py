"""Which of an adapter's patterns is of which module, by peft's rule, in bounded time.

peft takes the first key that matches the end of the module's name as a regular expression. Keys are nearly always plain names; what
is more than a name is a program, which a hostile checkpoint can make run for ever, so it is tried in a process of its
own, for a few seconds.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import lru_cache

LONGEST = 3.0  # seconds, for all modules of an adapter
_MOST, _LENGTH = 10_000, 1000  # keys, and characters of one
_PLAIN = re.compile(r"[\w.-]+", re.ASCII)
_MATCH = """
import json, re, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
patterns, modules = json.load(sys.stdin)
compiled = []
for index, pattern in patterns:
    try:
        compiled.append((index, re.compile(rf"(.*\\.)?({pattern})$")))
    except Exception:
        pass
print(json.dumps([next((index for index, key in compiled if key.match(module)), None) for module in modules]))
"""


@lru_cache(maxsize=64)
def first_matches(patterns: tuple[str, ...], modules: tuple[str, ...]) -> tuple[int | None, ...] | None:
    """Of each module the number of the first pattern that is of it, or None; None instead where that takes too long."""
    if len(patterns) > _MOST or any(len(pattern) > _LENGTH for pattern in patterns):
        return None
    plain = [(index, key) for index, key in enumerate(patterns) if _PLAIN.fullmatch(key)]
    others = [(index, key) for index, key in enumerate(patterns) if not _PLAIN.fullmatch(key)]
    found = _by_name(plain, modules)
    if others:
        tried = _in_a_child(others, modules)
        if tried is None:
            return None
        pairs = zip(found, tried, strict=True)
        found = [min((index for index in pair if index is not None), default=None) for pair in pairs]
    return tuple(found)


def _by_name(patterns: list[tuple[int, str]], modules: tuple[str, ...]) -> list[int | None]:
    """Names match whole ends of a module's name; their dots match dots."""
    first: dict[str, int] = {}
    for index, key in patterns:
        first.setdefault(key, index)
    found: list[int | None] = []
    for module in modules if first else ():
        parts = module.split(".")
        ends = (".".join(parts[place:]) for place in range(len(parts)))
        found.append(min((first[end] for end in ends if end in first), default=None))
    return found or [None] * len(modules)


def _in_a_child(patterns: list[tuple[int, str]], modules: tuple[str, ...]) -> list[int | None] | None:
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _MATCH],
            input=json.dumps([patterns, modules]),
            capture_output=True,
            text=True,
            timeout=LONGEST,
            check=True,
        )
        found: list[int | None] = json.loads(done.stdout)
        return found
    except (subprocess.SubprocessError, ValueError):
        return None
