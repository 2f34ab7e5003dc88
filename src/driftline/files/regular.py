"""Opening what comes with a checkpoint or a run: regular files only.

Whoever opens a pipe waits for its writer, maybe for ever; a device may never end. So what is there is looked at after it
was opened in a way that cannot wait, and anything but a file is refused.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
from pathlib import Path
from typing import IO, Any

from driftline.files import remote

IRREGULAR = "not a regular file"


def open_regular(path: Path, mode: str = "rb", **options: Any) -> IO[Any]:
    """`open` for regular files alone; a remote one is opened by its own filesystem.

    Raises:
        OSError: it is not there or cannot be opened; `not a regular file` of a pipe, socket, device, and so on.
    """
    if remote.is_remote(path):
        return path.open(mode, **options)
    return open(path, mode, opener=descriptor, **options)


def descriptor(path: str | Path, flags: int = os.O_RDONLY) -> int:
    """What `os.open` gives, of a regular file; the caller closes it.

    Raises:
        OSError: as of `open_regular`.
    """
    try:
        opened = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, or a pipe without a reader
            raise OSError(errno.EINVAL, IRREGULAR, str(path)) from error
        raise
    kind = os.fstat(opened).st_mode
    if stat.S_ISREG(kind):
        return opened
    os.close(opened)
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, IRREGULAR, str(path))


def descriptors() -> int:
    """How many files this process may have open at once."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return allowed if 0 <= allowed < 1 << 20 else 1 << 20  # without a limit: RLIM_INFINITY, which may be -1


def read_regular(path: Path) -> bytes:
    """All bytes of a file.

    Raises:
        OSError: as of `open_regular`.
    """
    with open_regular(path) as file:
        content: bytes = file.read()
    return content
