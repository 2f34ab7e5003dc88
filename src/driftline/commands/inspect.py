"""`driftline inspect`: what is there?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from driftline.commands.options import Source

if TYPE_CHECKING:
    from driftline.checkpoints.inspection import Inspection


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """What is there: layout, steps, tensors, dtypes, sizes, problems."""

    source: Source
    json: bool = False
    """print the record as JSON, and nothing else"""


def run(request: Inspect) -> Inspection:
    """The record, which is printed and written nowhere."""
    from driftline.checkpoints.inspection import inspect

    return inspect(request.source.open(quiet=True))


def show(record: Inspection, request: Inspect) -> None:
    from driftline import terminal

    terminal.inspection(record)
