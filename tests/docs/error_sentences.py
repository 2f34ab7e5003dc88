"""The sentences of every `InputError` in the source, read from its syntax tree; also of those that `in_one_sentence` makes."""

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
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or not node.args:
                continue
            texts = list(map(_text, node.args))
            if node.func.id == "in_one_sentence":
                kind, text = "InputError", f"{texts[0]} ({{}}): {texts[1]}"
            elif node.func.id in _ERRORS and texts[0] is not None:
                kind, text = node.func.id, texts[0]
            else:
                continue
            found.append(Sentence(f"{path.relative_to(SOURCE)}:{node.lineno}", kind, text))
    return found


def _text(node: ast.expr) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return None
