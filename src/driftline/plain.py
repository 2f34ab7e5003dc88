"""What may stand on a terminal: text alone, nothing that one obeys. Names of a run or a checkpoint may hold anything.

All that a command prints goes through `Screen`, whatever prints it, into a pipe too. rich finds the stream behind it, for its
colours and bars; what `terminal.py` hands to rich is made plain before.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any


def plain(text: str) -> str:
    """The text with its control characters, and those that turn the direction of writing, spelled out."""
    if text.isprintable() or text.replace("\n", "").isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    """The same with no new lines but those around it: one inside would be of a name, and make a line of its own."""
    inside = text.strip("\n")
    if "\n" in inside:
        text = text.replace(inside, inside.replace("\n", "\\n"))
    return plain(text)


class Screen:
    """A stream to which text is written plainly; in all else it is the stream itself."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.rich_proxied_file = stream  # rich's name for what a console writes to instead

    def write(self, text: str) -> int:
        begun = text[: len(text) - len(text.lstrip("\r"))]  # back to where a line begins, as bars of libraries go
        self._stream.write(begun + plain(text[len(begun) :]))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def plainly() -> Iterator[None]:
    """What is printed in the block is plain, on standard output and standard error."""
    with redirect_stdout(Screen(sys.stdout)), redirect_stderr(Screen(sys.stderr)):
        yield
