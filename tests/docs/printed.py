"""Is a text an excerpt of what a command printed, its figures taken with a tolerance?"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = re.compile(r"-?(?:\d+(?:,\d{3})+|\d+)(?:\.\d+)?|-?\.\d+|[^\W\d_]+|\S")
_NUMBER = re.compile(r"-?(?:\d|\.\d)")


@dataclass(frozen=True)
class Tolerance:
    """How far a figure may lie from the one that is shown: by so much, or by that share of it."""

    absolute: float = 0.0
    relative: float = 0.0

    def allows(self, shown: str, printed: str) -> bool:
        a, b = _value(shown), _value(printed)
        last_place = 10.0 ** -len(shown.partition(".")[2]) if "." in shown else 0.0
        return abs(a - b) <= max(self.absolute if "." in shown else 0, self.relative * abs(a), last_place) + 1e-12


def compare(shown: str, printed: str, tolerance: Tolerance) -> list[str]:
    """What of `shown` is not in `printed`, as sentences; nothing where all of it is there, in one piece.

    Words and signs have to be the same, in the same order; how lines are broken and spaced is left to the page.
    """
    wanted, found = _TOKEN.findall(shown), _TOKEN.findall(printed)
    words = [None if _NUMBER.match(token) else token for token in wanted]
    best: list[str] | None = None
    for start in range(len(found) - len(wanted) + 1):
        piece = found[start : start + len(wanted)]
        if all(
            bool(_NUMBER.match(token)) if word is None else word == token
            for word, token in zip(words, piece, strict=True)
        ):
            wrong = [
                f"{' '.join(wanted[max(0, k - 6) : k + 1])}: printed is {piece[k]}"
                for k, word in enumerate(words)
                if word is None and not tolerance.allows(wanted[k], piece[k])
            ]
            best = wrong if best is None or len(wrong) < len(best) else best
    return [f"it does not print {shown!r}, but\n{printed}"] if best is None else best


def _value(text: str) -> float:
    return float(text.replace(",", ""))
