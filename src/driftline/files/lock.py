"""Holding a folder: the system lets go of it when the process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Held(Exception):
    """Another process holds the folder."""


def hold(folder: Path) -> int:
    """A descriptor that holds the folder until it is closed; inherited, it holds it for a child too.

    Raises:
        Held: another process does.
        OSError: the folder is not there, or its file system has no locks.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise Held(str(folder)) from error
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def held(folder: Path) -> Iterator[int]:
    """Hold a folder, made if it is absent, for the length of a block; gives `hold`'s descriptor."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = hold(folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
