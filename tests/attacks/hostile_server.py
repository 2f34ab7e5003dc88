"""A server that means harm, in a thread of the test: what it sends is bytes, of any kind and without end."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Answer = Callable[[str], Iterable[bytes]]
"""Of a path: the pieces that are sent, each at once."""


@dataclass
class Hostile:
    """One that runs.

    Attributes:
        sent: bytes that were taken from it.
        heads: of the requests that came, with their headers.
    """

    address: str = ""
    sent: int = 0
    heads: list[str] = field(default_factory=list)


def whole(body: object, status: str = "200 OK", *headers: str) -> bytes:
    """An answer in good form; a body that is no bytes is written as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(data)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + data


@contextmanager
def hostile(answer: Answer) -> Iterator[Hostile]:
    """A server that answers each request, on a connection of its own, with what `answer` gives."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.05)
    running = Hostile(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
    ended = threading.Event()
    threads = []

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.settimeout(0.2)
            head = _request(connection)
            running.heads.append(head)
            for piece in answer(head.split()[1]):
                view = memoryview(piece)
                while view:
                    if ended.is_set():
                        return
                    with contextlib.suppress(TimeoutError):
                        count = connection.send(view)
                        running.sent += count
                        view = view[count:]

    def accept() -> None:
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                threads.append(threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True))
                threads[-1].start()

    threads.append(threading.Thread(target=accept, daemon=True))
    threads[0].start()
    try:
        yield running
    finally:
        ended.set()
        for thread in threads:
            thread.join(20)
        listener.close()


def _request(connection: socket.socket) -> str:
    """The head of a request, whose body was read as well."""
    read = b""
    while b"\r\n\r\n" not in read:
        part = connection.recv(65536)
        if not part:
            raise ConnectionError("no request")
        read += part
    head, _, body = read.partition(b"\r\n\r\n")
    lengths = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    left = sum(lengths) - len(body)
    while left > 0:
        left -= len(connection.recv(65536))
    return head.decode("latin-1")
