"""A JSON file that comes with a checkpoint, read with a bound on the memory that a hostile one can take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from driftline.files import remote

LIMIT = 64 << 20  # bytes; a log of a hundred thousand steps is a third of it


def read_json(path: Path) -> Any:
    """What the file holds.

    Raises:
        OSError: it is not there, or cannot be read.
        ValueError: it is not JSON, is nested too deeply, or is larger than 64 MiB.
    """
    with remote.faults(path), path.open("rb") as file:
        text = file.read(LIMIT + 1)
    if len(text) > LIMIT:
        raise ValueError(f"more than {LIMIT >> 20} MiB")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
