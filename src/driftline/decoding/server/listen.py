"""Serving on an address, and its end: what runs gets a grace period, and then the process is gone."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import sys
from typing import Any, NoReturn

from driftline.decoding.sampler import Sampler
from driftline.decoding.server.application import Limits, application
from driftline.errors import InputError

try:
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError as missing:
    raise InputError(f"serving needs {missing.name}: pip install 'driftline[serve]'") from missing


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
    grace: float = 1.0,
) -> None:
    """Answer requests until SIGINT or SIGTERM; what runs then has `grace` seconds to end, and the process is gone."""
    limits = limits or Limits()
    app = application(sampler, name, key, limits)
    try:
        Server(app, limits, grace).run(sockets=[listener])
    except (KeyboardInterrupt, SystemExit) as ending:
        _leave(ending)


class Server(uvicorn.Server):
    """uvicorn's, which drops clients that send nothing, and ends what runs in good form when its grace is over."""

    def __init__(self, app: Any, limits: Limits, grace: float = 1.0) -> None:
        def protocol(*arguments: Any, **settings: Any) -> _Impatient:
            made = _Impatient(*arguments, **settings)
            made.patience = limits.read_timeout
            return made

        config = uvicorn.Config(
            app,
            http=protocol,  # type: ignore[arg-type]
            ws="none",
            log_level="critical",  # the application says what is wrong
            timeout_graceful_shutdown=grace + 0.3,  # type: ignore[arg-type]
            server_header=False,
        )
        super().__init__(config)
        self._scheduler, self._grace = app.state.scheduler, grace

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._scheduler.close()
        cut = asyncio.get_running_loop().call_later(self._grace, self._scheduler.cut)
        try:
            await super().shutdown(sockets)
        finally:
            cut.cancel()


class _Impatient(H11Protocol):
    """A connection that is closed where no request's headers have come in time."""

    patience: float
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
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


def _leave(ending: KeyboardInterrupt | SystemExit) -> NoReturn:
    """End the process at once, with the code that it would have ended with.

    A model in a long pass cannot be interrupted, and taking down an interpreter with torch in it takes seconds.
    """
    code = 130
    if isinstance(ending, SystemExit):
        code = int(ending.code or 0)
    else:
        print("driftline: stopped", file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
