"""What `driftline COMMAND --help` promises: every option and positional, its choices and its default."""

from __future__ import annotations

import contextlib
import io
import re
from typing import Any

import pytest

from driftline import cli

_ENTRY = re.compile(r"^ {1,2}(?P<name>--[a-z][a-z0-9-]*|[A-Z]+)(?P<rest>( .*)?)$")  # what explains it stands further in
_CHOICES = re.compile(r"\{([^}]*)\}")
_DEFAULT = re.compile(r"\((?:default: (?P<value>.*)|(?P<required>required))\)$")


def commands() -> list[str]:
    """Names of all commands, as the sentence lists them that a mistyped one gets."""
    return _said(["no-command-of-this-name"]).strip().rpartition(": choose ")[2].split(", ")


def flags_of(command: str) -> dict[str, dict[str, Any]]:
    """Option string or positional -> {"default": as the help prints it, null where required; "choices": if any}.

    The default is text, as printed; one that is empty is "". Words that stand in the help between the name and the
    default are free to change, and so is what stands for a value (`DIR`, `STEP`).
    """
    entries: dict[str, str] = {}
    name = None
    for line in _said([command, "--help"]).splitlines():
        text = line.strip("│").rstrip()
        if entry := _ENTRY.match(text):
            name = entry["name"]
            entries[name] = entry["rest"].strip()
        elif name and text.startswith("    "):
            entries[name] = f"{entries[name]} {text.strip()}"
        else:
            name = None
    return {name: _entry(text) for name, text in entries.items()}


def _entry(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    shown = _CHOICES.match(text)
    if shown and (choices := [choice for choice in shown[1].split(",") if choice != "None"]):
        found["choices"] = choices
    if default := _DEFAULT.search(text):
        found["default"] = None if default["required"] else default["value"].strip()
    return found


def _said(words: list[str]) -> str:
    """What `driftline WORDS` prints, where it ends before it does anything."""
    text = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        patch.setenv("COLUMNS", "120")  # wider, and long helps come in two columns
        patch.setattr("sys.argv", ["driftline", *words])
        with pytest.raises(SystemExit):
            cli.main()
    return text.getvalue()
