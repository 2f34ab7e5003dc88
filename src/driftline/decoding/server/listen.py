"""Serving on an address, and its end: what runs gets a grace period, and then the process is gone."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
import threading
from types import FrameType
from typing import Any

from driftline.decoding.sampler import Sampler
from driftline.decoding.server.application import Limits, application
from driftline.decoding.server.ending import leave
from driftline.errors import InputError

try:
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError as missing:
    raise InputError(f"serving needs {missing.name}: pip install 'driftline[serve]'") from missing


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
        def protocol(*arguments: Any, **settings: Any) -> _Impatient:
            made = _Impatient(*arguments, **settings)
            made.patience = limits.read_timeout
            return made

        config = uvicorn.Config(
            app,
            http=protocol,  # type: ignore[arg-type]
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

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._scheduler.close()
        self._bodies.close()
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
