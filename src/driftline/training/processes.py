"""A command that is run to its end or stopped with all that it started, whatever that does to stay."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PATIENCE = 10.0  # seconds that a command has to end when it is told to
_LOOK = 0.5  # seconds between looks at its log
_LONGEST = 64 << 20  # bytes of a log; of a longer one the end is kept
_KEPT = 1 << 20
_CHILD_SUBREAPER = 36  # prctl's: what its children leave behind becomes this process's


def run_to_end(command: list[str], log: Path, lock: int) -> int:
    """Run the command to its end, its output in `log`, of which the last is kept where it is too long.

    Stopped by an exception, such as Ctrl-C, it is told to end, with all that it started, also in sessions of their own;
    what has not ended ten seconds later, or at a second Ctrl-C, is killed.

    Args:
        lock: a file descriptor that the command holds too, in case it outlives this process.

    Returns:
        Its exit code, negative if a signal ended it.

    Raises:
        OSError: it cannot be started.
    """
    with _keeping_orphans(), open(log, "ab") as output:
        before = descendants(os.getpid())
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=(lock,),
            start_new_session=True,
        )
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    return process.wait(_LOOK)
                shorten(log, _LONGEST, _KEPT)
        except BaseException:
            _stop(process, before)
            raise
        finally:
            shorten(log, _LONGEST, _KEPT)


def shorten(log: Path, longest: int, kept: int) -> None:
    """Leave the end of a log that is too long; what is written meanwhile may be lost."""
    if log.stat().st_size <= longest:
        return
    with log.open("rb+") as file:
        file.seek(-kept, os.SEEK_END)
        end = file.read(kept)
        file.truncate(0)
    with log.open("ab") as file:
        file.write(b"[what came before was too long to be kept]\n" + end)


def last_lines(log: Path, count: int, longest: int = 500) -> list[str]:
    """The last lines of a log, of each at most so many characters."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - (1 << 16)))
        lines = file.read(1 << 16).decode(errors="replace").splitlines()
    return [line if len(line) <= longest else f"{line[:longest]}…" for line in lines[-count:]]


def descendants(root: int) -> set[int]:
    """All processes below one that have not ended; none where the system does not say."""
    children: dict[int, list[int]] = {}
    with suppress(OSError):
        for entry in os.listdir("/proc"):
            with suppress(OSError, IndexError, ValueError):
                state, parent = Path(f"/proc/{int(entry)}/stat").read_text().rsplit(")", 1)[1].split()[:2]
                if state != "Z":
                    children.setdefault(int(parent), []).append(int(entry))
    found: set[int] = set()
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found.update(below)
        waiting += below
    return found


def _stop(process: subprocess.Popen[bytes], before: set[int]) -> None:
    """End the command and all that was started since, with patience until a second signal comes."""

    def left() -> set[int]:
        process.poll()  # so that it is no zombie
        return descendants(os.getpid()) - before

    try:
        _signal(process, left(), signal.SIGTERM)
        until = time.monotonic() + _PATIENCE
        while (process.poll() is None or left()) and time.monotonic() < until:
            time.sleep(0.05)
    finally:
        until = time.monotonic() + _PATIENCE
        while (process.poll() is None or left()) and time.monotonic() < until:  # one may start another meanwhile
            _signal(process, left(), signal.SIGKILL)
            time.sleep(0.02)


def _signal(process: subprocess.Popen[bytes], others: set[int], number: signal.Signals) -> None:
    if process.poll() is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
    for other in others - {process.pid}:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(other, number)


@contextmanager
def _keeping_orphans() -> Iterator[None]:
    """What the command's processes leave behind becomes this process's, so that it is found (Linux)."""
    if not sys.platform.startswith("linux"):
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(_CHILD_SUBREAPER, 0, 0, 0, 0)
