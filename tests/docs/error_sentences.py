"""The sentences of every `InputError` in the source, read from its syntax tree."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "driftline"
_ERRORS = {"InputError", "UnreadableCheckpoint"}


@dataclass(frozen=True)
class Sentence:
    """One `InputError(...)`: its text, `{}` in place of each value that is filled in."""

    where: str
    kind: str
    text: str

    @property
    def pattern(self) -> re.Pattern[str]:
        return re.compile("(.+?)".join(map(re.escape, self.text.split("{}"))), re.DOTALL)


def sentences() -> list[Sentence]:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _ERRORS and node.args:
                text = _text(node.args[0])
                if text is not None:
                    found.append(Sentence(f"{path.relative_to(SOURCE)}:{node.lineno}", node.func.id, text))
    return found


def _text(node: ast.expr) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return None
