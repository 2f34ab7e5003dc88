"""Serving on an address, and its end: what runs gets a grace period, and then the process is gone."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import resource
import signal
import socket
import sys
import threading
from types import FrameType
from typing import Any

from driftline.decoding.sampler import Sampler
from driftline.decoding.server.application import Limits, application
from driftline.decoding.server.ending import leave
from driftline.errors import InputError, first_line
from driftline.files.regular import descriptors

try:
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError as missing:
    raise InputError(f"serving needs {missing.name}: pip install 'driftline[serve]'") from missing


_BACKLOG = 128  # connections that are taken at once, before any is looked at
_SAYINGS = 100
GRACE = 0.5  # seconds
_REST = 0.5  # seconds beyond the grace, after which the process is gone, whatever it does


def listen(host: str, port: int) -> socket.socket:
    """The address to serve on, taken at once, before a model is loaded; port 0 is any free one.

    Raises:
        InputError: the port is in use or may not be taken, or the host is not this machine's.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise InputError(f"port {port} of {host} is in use: choose another with --port") from error
        raise InputError(
            f"{host}, port {port}, cannot be served on ({error}): choose another --host or --port"
        ) from error


def serve(
    sampler: Sampler,
    listener: socket.socket,
    name: str,
    *,
    key: str | None = None,
    limits: Limits | None = None,
    grace: float = GRACE,
) -> None:
    """Answer requests until SIGINT or SIGTERM; what runs then has `grace` seconds to end, and the process is gone."""
    limits = limits or Limits()
    app = application(sampler, name, key, limits)
    try:
        Server(app, limits, grace).run(sockets=[listener])
    except KeyboardInterrupt:
        leave(signal.SIGINT)
    except SystemExit as ending:
        leave(signal.SIGTERM if ending.code == 143 else 0)


class Server(uvicorn.Server):
    """uvicorn's, which drops clients that send nothing, and ends what runs in good form when its grace is over."""

    def __init__(self, app: Any, limits: Limits, grace: float = GRACE) -> None:
        _raise_descriptors()
        most = descriptors() // 2

        def protocol(*arguments: Any, **settings: Any) -> _Impatient:
            made = _Impatient(*arguments, **settings)
            made.patience, made.most = limits.read_timeout, most
            return made

        config = uvicorn.Config(
            app,
            http=protocol,  # type: ignore[arg-type]
            backlog=min(_BACKLOG, descriptors() // 8),
            ws="none",
            log_level="critical",  # the application says what is wrong
            timeout_graceful_shutdown=grace + _REST / 2,  # type: ignore[arg-type]
            server_header=False,
        )
        super().__init__(config)
        self._scheduler, self._bodies, self._grace = app.state.scheduler, app.state.bodies, grace

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End in good form; at once when told again, or when that takes longer than it should."""
        if self.should_exit:
            leave(sig)
        super().handle_exit(sig, frame)
        last = threading.Timer(self._grace + _REST, leave, [sig])
        last.daemon = True
        last.start()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(_Sayings())
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._scheduler.close()
        self._bodies.close()
        cut = asyncio.get_running_loop().call_later(self._grace, self._scheduler.cut)
        try:
            await super().shutdown(sockets)
        finally:
            cut.cancel()


class _Sayings:
    """What goes wrong in the event loop beside any request, such as a system that opens no more files: each in a line, once."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        said = f"{context['message']} ({first_line(error)})" if error else str(context["message"])
        if said not in self._said and len(self._said) < _SAYINGS:
            self._said.add(said)
            print(f"driftline: {said}", file=sys.stderr, flush=True)


def _raise_descriptors() -> None:
    """Have as many open files as the system lets a user have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class _Impatient(H11Protocol):
    """A connection that is closed where no request's headers have come in time, and at once where there are too many."""

    patience: float
    most: int
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.most:  # or those that come next could not even be taken
            transport.abort()
            return
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unwatch()

    def _watch(self) -> None:
        """Wait for a request, unless one is being answered."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._unwatch()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.patience, self._give_up)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
