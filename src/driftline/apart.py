"""Work on what is not trusted, in a process of its own with bounds on time, memory and what comes back.

A checkpoint's chat template is a program; a tokenizer's pattern and a formula can take for ever. Neither can be stopped
in a thread, so they run in a forked child, which is as it is here at the first call and serves all that follow. What a
library prints there, such as the trace of a panic, is for DRIFTLINE_DEBUG=1 alone. Where there is no fork (Windows),
work is done in place, without bounds.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import multiprocessing
import os
import signal
import stat
import sys
import threading
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from driftline.errors import first_line

_LONGEST = 64 << 20  # bytes of an answer
_GRACE = 2.0  # seconds within which a child that was killed has ended
_WAITING = 12  # times its bound in seconds of the clock after which a child is killed: it sleeps, or the machine does


class TooMuch(Exception):
    """A bound was passed; the message says which: `more than 5 s`."""


class Refused(Exception):
    """The work itself failed; the message is the first line of what it raised."""


class Apart:
    """A function, run in a child. Its arguments and what it returns are what JSON can write.

    It may be called from any thread; calls wait for one another.
    """

    def __init__(self, work: Callable[..., Any], *, seconds: float, mebibytes: int = 512) -> None:
        """
        Args:
            seconds: of one call, of the processor's time, so that no verdict depends on what else runs; mebibytes: that a call may take beyond what the process had when it was forked.
        """
        self._work, self._seconds, self._mebibytes = work, seconds, mebibytes
        self._lock = threading.Lock()
        self._child: Any = None
        self._connection: Connection | None = None
        self._stop = lambda: None

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns.

        Raises:
            TooMuch: it passed a bound.
            Refused: it raised.
        """
        if not hasattr(os, "fork"):
            return _done(self._work, arguments)
        with self._lock:
            answer = self._ask(json.dumps(arguments).encode())
        if "value" in answer:
            return answer["value"]
        raise (TooMuch if answer["bound"] else Refused)(answer["said"])

    def start(self) -> None:
        """Fork the child now, before there are other threads."""
        with self._lock:
            if hasattr(os, "fork"):
                self._running()

    def _ask(self, asked: bytes) -> Any:
        connection = self._running()
        try:
            connection.send_bytes(asked)
            if connection.poll(self._seconds * _WAITING):
                answer = json.loads(connection.recv_bytes())
                if answer.get("broken"):
                    self._end()
                return answer
        except (EOFError, OSError):  # it ended itself, or was killed
            self._child.join(_GRACE)
            if self._child.exitcode not in (-signal.SIGPROF, None):
                self._end()
                raise TooMuch(f"more than {self._mebibytes} MiB of memory") from None
        self._end()
        raise TooMuch(f"more than {self._seconds:g} s")

    def _running(self) -> Connection:
        if self._connection is None or not self._child.is_alive():
            self._end()
            ours, theirs = multiprocessing.Pipe()
            fork = multiprocessing.get_context("fork")
            self._child = fork.Process(
                target=_serve, args=(self._work, theirs, ours, self._seconds, self._mebibytes), daemon=True
            )
            self._child.start()
            theirs.close()
            self._connection = ours
            self._stop = weakref.finalize(self, _kill, self._child, ours)
        return self._connection

    def _end(self) -> None:
        self._stop()
        self._connection = None


def _kill(child: Any, connection: Connection) -> None:
    connection.close()
    child.kill()
    child.join(_GRACE)


def _serve(
    work: Callable[..., Any], connection: Connection, parents: Connection, seconds: float, mebibytes: int
) -> None:
    """In the child: answer until the parent has gone."""
    parents.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to answer
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # which ends it, and that even when the parent has gone
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads are not in a forked child
    with open(os.devnull, "r+", encoding="utf-8") as nowhere:
        _let_go_of_sockets(connection.fileno(), nowhere.fileno())
    if os.environ.get("DRIFTLINE_DEBUG") != "1":
        _be_silent()
    _bound_memory(mebibytes << 20)
    with contextlib.suppress(EOFError, OSError):
        while True:
            asked = connection.recv_bytes()
            signal.setitimer(signal.ITIMER_PROF, seconds)
            answer = _answer(work, asked, mebibytes)
            signal.setitimer(signal.ITIMER_PROF, 0)
            connection.send_bytes(answer)


def _answer(work: Callable[..., Any], asked: bytes, mebibytes: int) -> bytes:
    memory = {"bound": True, "said": f"more than {mebibytes} MiB of memory"}
    try:
        answer = json.dumps({"value": _done(work, json.loads(asked))}).encode()
    except RecursionError:
        answer = json.dumps({"bound": False, "said": "values nested too deeply"}).encode()
    except Refused as error:
        broken = not isinstance(error.__cause__, Exception)  # a library that panicked may hold its locks for ever
        answer = json.dumps({"bound": False, "said": str(error), "broken": broken}).encode()
    except MemoryError:
        answer = json.dumps(memory).encode()
    return answer if len(answer) <= _LONGEST else json.dumps(memory).encode()


def _done(work: Callable[..., Any], arguments: Any) -> Any:
    try:
        return work(*arguments)
    except (MemoryError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a panic in Rust is no Exception
        raise Refused(first_line(error)) from error


def _let_go_of_sockets(keep: int, nowhere: int) -> None:
    """Hold none that is the parent's: a client's connection, say, which would stay open when the parent closes it."""
    for name in os.listdir("/dev/fd"):
        descriptor = int(name)
        with contextlib.suppress(OSError):  # that of the list itself
            if descriptor != keep and stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                os.dup2(
                    nowhere, descriptor
                )  # not closed: its object here will do that, by a number that would be another's


def _be_silent() -> None:
    faulthandler.disable()  # which writes where it was told to, if it was
    nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (as long as the process lives)
    for descriptor in (1, 2):
        os.dup2(nowhere.fileno(), descriptor)
    sys.stdout = sys.stderr = nowhere  # which need not be those two


def _bound_memory(more: int) -> None:
    """Let the process take so many bytes beyond what it has."""
    import resource  # not on Windows, where nothing comes here

    with contextlib.suppress(OSError, ValueError), open("/proc/self/statm", encoding="ascii") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + more, resource.getrlimit(resource.RLIMIT_AS)[1]))
