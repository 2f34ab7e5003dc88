"""JSON lines that grow: whole rows are kept whatever happens, a torn last line is cut off, the rest is appended."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from driftline.files.regular import open_regular, read_regular

Row = dict[str, Any]
_ODD = "backslashreplace"  # names that are not UTF-8: half a character becomes its escape, which is JSON


def write_lines(path: Path, rows: Iterable[Row]) -> None:
    """All rows, at once, into a new file."""
    with open_regular(path, "w", encoding="utf-8", errors=_ODD) as file:
        file.writelines(map(_line, rows))


def whole_lines(path: Path) -> list[bytes]:
    """The lines that are complete; none where there is no file."""
    if not path.exists():
        return []
    return read_regular(path).split(b"\n")[:-1]  # what follows the last line's end was cut short


class Lines:
    """A file of rows that is open to be continued."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def append(self, rows: Iterable[Row]) -> None:
        """Add rows; they are on the disk when this returns."""
        self._file.writelines(map(_line, rows))
        self._file.flush()
        os.fsync(self._file.fileno())


@contextmanager
def continued(path: Path) -> Iterator[Lines]:
    """A file to append rows to; what was cut short in it goes first."""
    if path.exists():
        content = read_regular(path)
        os.truncate(path, content.rfind(b"\n") + 1)
    with open_regular(path, "a", encoding="utf-8", errors=_ODD) as file:
        yield Lines(file)


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
