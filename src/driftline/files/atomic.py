"""One file, replaced in one piece: a reader, or a crash, sees the old one or the new one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from driftline.files.regular import open_regular


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A binary file to write; it becomes `path` when the block ends well, synced to the disk first."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open_regular(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def replace_text(path: Path, text: str) -> None:
    """Write a small text file, UTF-8, in one piece."""
    with replacing(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))  # of names that are not UTF-8


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
