"""What can one ask? A file for each command: a frozen request, whose fields are the flags, and `run(request) -> record`."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol, cast

GROUPS = {
    "measure": ("analyze", "inspect", "compare", "watch", "logprobs", "activations", "rollouts"),
    "forecast": ("backtest", "extrapolate", "advise"),
    "act": ("evaluate", "sweep", "generate", "serve", "reground"),
    "lab": ("demo", "train", "study"),
}
"""The commands, most used first."""

COMMANDS = tuple(name for names in GROUPS.values() for name in names)


class Command(Protocol):
    """A module of this folder; its request is the class that has the command's name, capitalised."""

    def run(self, request: Any) -> Any:
        """Do it, and give the record of what was found or written; None where there is none to give."""

    def show(self, record: Any, request: Any) -> None:
        """Print the record for people."""


def command_named(name: str) -> Command:
    return cast(Command, import_module(f"driftline.commands.{name}"))


def request_type(name: str) -> type:
    """The frozen dataclass of a command's flags."""
    return getattr(command_named(name), name.capitalize())
