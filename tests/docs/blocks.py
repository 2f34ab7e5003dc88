"""Code blocks of the documentation, and the command line as a parser only."""

from __future__ import annotations

import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from driftline import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(
    r"(?:^[ \t]*<!-- not run: (?P<reason>[^\n]+?) -->[ \t]*\n+)?"
    r"^(?P<indent>[ \t]*)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```[ \t]*$",
    re.MULTILINE | re.DOTALL,
)
_INLINE = re.compile(r"`(driftline [a-z]+[^`\n]* --[^`\n]*)`")


@dataclass(frozen=True)
class Block:
    """One fenced block: its page and line, its language, its code, and why it is not run, if so."""

    page: Path
    line: int
    language: str
    code: str
    reason: str | None

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
    return [
        Block(
            page,
            text.count("\n", 0, found.start("code")),
            found["language"],
            textwrap.dedent(found["code"]),
            found["reason"],
        )
        for found in _FENCE.finditer(text)
    ]


def inline_commands(page: Path) -> list[list[str]]:
    """Commands in running text and tables, such as `driftline inspect RUN --json`."""
    return [shlex.split(found.replace("…", "")) for found in _INLINE.findall(page.read_text(encoding="utf-8"))]


def parse(words: list[str]) -> Any:
    """The request that the real parser makes of `driftline WORDS`, not run; SystemExit where it refuses."""
    return cli.parse(words[0], words[1:])
