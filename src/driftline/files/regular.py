"""Opening what comes with a checkpoint or a run: regular files only. And what the user names: a file or a pipe.

Whoever opens a pipe waits for its writer, maybe for ever; a device may never end. So what is there is looked at after it
was opened in a way that cannot wait, and anything but a file is refused. A pipe that the user names himself, as a shell's
`<(...)` and `/dev/stdin` are, is read as other tools read it.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Iterator
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


def open_given(path: Path) -> IO[bytes]:
    """A file that the user named on the command line, to read once: a regular one, or a pipe, whose writer is waited for.

    Raises:
        OSError: as of `open_regular`, of a socket or a device too.
    """
    try:
        waits = stat.S_ISFIFO(os.stat(path).st_mode)
    except ValueError as error:  # a NUL in the name
        raise OSError(errno.EINVAL, "no file has such a name", str(path)) from error
    if not waits:
        return open_regular(path)
    opened = os.open(path, os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    if stat.S_ISFIFO(os.fstat(opened).st_mode):
        return os.fdopen(opened, "rb")
    os.close(opened)  # it has become something else meanwhile
    raise OSError(errno.EINVAL, IRREGULAR, str(path))


def read_given(path: Path, longest: int) -> bytes:
    """All bytes of a file that the user named, which has so many at most.

    Raises:
        OSError: as of `open_given`, or it is larger.
    """
    with open_given(path) as file:
        content = file.read(longest + 1)
    if len(content) > longest:
        raise OSError(errno.EFBIG, f"more than {longest >> 10:,} KiB", str(path))
    return content


def lines_given(path: Path, *, line: int, whole: int) -> Iterator[bytes]:
    """The lines of a file that the user named, each as it is needed, with their ends.

    Args:
        line, whole: bytes that one of them, and all together, may have.

    Raises:
        OSError: as of `open_given`, or a bound is passed.
    """
    read = 0
    with open_given(path) as file:
        while found := file.readline(line + 1):
            read += len(found)
            if len(found) > line:
                raise OSError(errno.EFBIG, f"a line of more than {line >> 20:,} MiB", str(path))
            if read > whole:
                raise OSError(errno.EFBIG, f"more than {whole >> 20:,} MiB", str(path))
            yield found


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
