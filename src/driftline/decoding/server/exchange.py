"""One request on the event loop: its steps as the scheduler makes them, until it ends, its time is up or its client left."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, MutableMapping
from typing import Any, TypeVar

from driftline.decoding.server.scheduler import Job, Scheduler, Step
from driftline.decoding.speculative import OpenCompletion

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_T = TypeVar("_T")


class TimeIsUp(Exception):
    """A request took longer than it may."""


class Exchange:
    """A job that was submitted; `close` frees its rows, whatever has happened."""

    def __init__(self, scheduler: Scheduler, rows: list[OpenCompletion], stop: tuple[str, ...], seconds: float) -> None:
        """
        Raises:
            Busy: too many requests wait.
        """
        self._scheduler, self._seconds = scheduler, seconds
        self._deadline = time.monotonic() + seconds
        self._steps: asyncio.Queue[list[Step] | Exception] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(steps: list[Step] | Exception) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(self._steps.put_nowait, steps)

        self._job = Job(rows, stop, tell, deadline=self._deadline + 1)
        scheduler.submit(self._job)

    async def steps(self) -> AsyncIterator[list[Step]]:
        """What rows gain, round by round, until all have ended.

        Raises:
            TimeIsUp: the request's seconds have passed.
            Failed, Busy: the scheduler gave up on it.
        """
        left = len(self._job.rows)
        while left:
            try:
                found = await asyncio.wait_for(self._steps.get(), max(self._deadline - time.monotonic(), 0))
            except asyncio.TimeoutError:
                raise TimeIsUp(f"the request took more than {self._seconds:g} seconds: ask for less") from None
            if isinstance(found, Exception):
                raise found
            left -= sum(1 for step in found if step.finish_reason)
            yield found

    def close(self) -> None:
        self._scheduler.cancel(self._job)


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, _T]) -> _T | None:
    """What `work` gives; None if the client has hung up before, and the work is cancelled."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks: tuple[asyncio.Task[Any], asyncio.Task[Any]] = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
