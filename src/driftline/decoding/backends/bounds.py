"""What a server may send for what it was asked: so many bytes, as they are, in so much time, as JSON.

Who answers may be broken or hostile: a body that never ends or is packed to burst, a byte a second, a text in a coding
that takes for ever to read. Bounds hold while the body comes, for answers and refusals alike.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import anyio

if TYPE_CHECKING:
    from anyio import CancelScope

PLAIN = {"accept-encoding": "identity"}
"""Headers of a request whose answer must not be packed."""

_LEAST, _MOST = 1 << 20, 16 << 20  # bytes of an answer, however little and however much was asked for
_OF_A_TOKEN = 512  # its text, id and log-prob, on average
_LIST = 4 << 20  # bytes of what was not generated
_REST = 60.0  # seconds within which an answer that has begun is there


class Unfit(Exception):
    """A server sends what no server should; the message says what."""


class _Bounds:
    """Of one exchange: the bytes that may come, and what ends it when its time is up."""

    def __init__(self, most: int, scope: CancelScope) -> None:
        self._left, self._most, self._scope, self._begun = most, most, scope, False

    def count(self, part: bytes) -> None:
        """Take note of what came. Blanks before an answer keep a connection open while it is generated.

        Raises:
            Unfit: it is more than there may be.
        """
        self._left -= len(part)
        if self._left < 0:
            raise Unfit(f"more than {self._most / 2**20:.3g} MiB for what was asked")
        if not self._begun and not part.isspace():
            self._begun = True
            self._scope.deadline = min(self._scope.deadline, anyio.current_time() + _REST)


_bounds: ContextVar[_Bounds] = ContextVar("bounds")


@contextmanager
def bounded(body: Mapping[str, Any] | None, seconds: float) -> Iterator[None]:
    """Bounds of an exchange whose client has the hook `bound`.

    Args:
        body: of the request; None: what was not generated is asked for.
        seconds: until the whole answer is there.

    Raises:
        TimeoutError: it is not there in time.
        Unfit: the server sends what it should not.
    """
    with anyio.fail_after(seconds) as scope:
        before = _bounds.set(_Bounds(_allowed(body), scope))
        try:
            yield
        finally:
            _bounds.reset(before)


def _allowed(body: Mapping[str, Any] | None) -> int:
    """Bytes that the answer may have: by the tokens of prompt and answer, as far as it may tell of them."""
    if body is None:
        return _LIST
    tokens = len(body.get("prompt", ())) + int(body.get("max_tokens", 0))
    return min(_LEAST + _OF_A_TOKEN * tokens, _MOST)


async def bound(response: Any) -> None:
    """Called with each response before its body is read; that becomes text by UTF-8 alone, as JSON is."""
    response.encoding = "utf-8"
    packed = response.headers.get("content-encoding", "")
    if packed.strip().lower() not in ("", "identity"):
        raise Unfit(f"a body packed as {packed[:20]!r}, which nobody asked for")
    kind: Any = _kind_of(response.stream)
    response.stream = _counted(kind)(response.stream, _bounds.get())


def _kind_of(stream: Any) -> type[Any]:
    """What the client takes for a body; the module that it comes from differs among versions of openai."""
    return next(kind for kind in type(stream).__mro__ if kind.__name__ == "AsyncByteStream")


@lru_cache
def _counted(kind: type[Any]) -> type[Any]:
    class Counted(kind):
        """A body as it comes, counted."""

        def __init__(self, stream: Any, bounds: _Bounds) -> None:
            self._stream, self._bounds = stream, bounds

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for part in self._stream:
                self._bounds.count(part)
                yield part

        async def aclose(self) -> None:
            await self._stream.aclose()

    return Counted
