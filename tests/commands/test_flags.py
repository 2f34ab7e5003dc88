"""No option comes, goes or changes its default unnoticed: `flags.json` is what each command's help said before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from flags import commands, flags_of

_PINNED: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "flags.json").read_text(encoding="utf-8"))


def test_the_commands_are_these() -> None:
    assert sorted(commands()) == sorted(_PINNED)


@pytest.mark.parametrize("command", _PINNED)
def test_its_flags_are_these(command: str) -> None:
    assert flags_of(command) == _PINNED[command]
