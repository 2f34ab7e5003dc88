"""Code blocks of the documentation, and the command line as a parser only."""

from __future__ import annotations

import re
import shlex
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from driftline import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(
    r"(?:^[ \t]*<!-- not run: (?P<reason>[^\n]+?) -->[ \t]*\n+)?"
    r"(?P<printed>(?:^[ \t]*<!-- printed by: [^\n]+? -->[ \t]*\n+)*)"
    r"^(?P<indent>[ \t]*)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```[ \t]*$",
    re.MULTILINE | re.DOTALL,
)
_PRINTED = re.compile(r"<!-- printed by: ([^\n]+?) -->")
_INLINE = re.compile(r"`(driftline [a-z]+[^`\n]* --[^`\n]*)`")


@dataclass(frozen=True)
class Block:
    """One fenced block: its page and line, its language, its code, and why it is not run, if so.

    `printed_by` is of a text block: the commands whose output it shows. They stand in comments above it, or are those of
    the shell block right before it.
    """

    page: Path
    line: int
    language: str
    code: str
    reason: str | None
    printed_by: tuple[tuple[str, ...], ...] = ()

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command of a shell block, continued lines joined, comments gone."""
        lines = self.code.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found_so_far: list[Block] = []
    for found in _FENCE.finditer(text):
        before = found_so_far[-1] if found_so_far else None
        named = [shlex.split(command) for command in _PRINTED.findall(found["printed"])]
        if not named and before and before.language == "sh" and before.reason is None:
            named = before.commands
        block = Block(
            page,
            text.count("\n", 0, found.start("code")),
            found["language"],
            textwrap.dedent(found["code"]),
            found["reason"],
        )
        shows = block.language == "text" and block.reason is None
        found_so_far.append(replace(block, printed_by=tuple(map(tuple, named))) if shows else block)
    return found_so_far


def inline_commands(page: Path) -> list[list[str]]:
    """Commands in running text and tables, such as `driftline inspect RUN --json`."""
    return [shlex.split(found.replace("…", "")) for found in _INLINE.findall(page.read_text(encoding="utf-8"))]


def parse(words: list[str]) -> Any:
    """The request that the real parser makes of `driftline WORDS`, not run; SystemExit where it refuses."""
    return cli.parse(words[0], words[1:])
