"""Requests to an OpenAI-compatible server: many at once, sent again where it pays, answered in the order asked.

They run in an event loop on a thread of its own, so that the server stays busy while answers are scored and written.
Whatever goes wrong ends in one sentence without the key, and without a password that is part of the address. The server
is not trusted: its answers have bounds (`bounds.py`), and nobody else is asked because it says so.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from email.utils import parsedate_to_datetime
from itertools import islice
from time import time
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from driftline.decoding.backends.backend import Backend
from driftline.errors import InputError, first_line
from driftline.files.json import json_line
from driftline.files.remote import redacted

if TYPE_CHECKING:
    import openai

Result = TypeVar("Result")

AT_ONCE = 32  # requests in flight
KEY = "OPENAI_API_KEY"
_AHEAD = 4  # times those in flight: how far beyond the first unfinished one requests are started
_TRIES, _FIRST_TRIES, _TIMED_OUT_TRIES = 9, 3, 2
_TIMEOUT, _CONNECT = 3600.0, 15.0  # seconds: a long answer waits in the server's queue too
_LIST_TIMEOUT = 15.0  # of what is not generated
_LONGEST_WAIT, _LONGEST_ASKED = 30.0, 300.0  # seconds between tries: of our own, and that a server may ask for
_LONGEST_MESSAGE, _READ_OF_IT = 300, 1 << 16  # characters


class Refusal(InputError):
    """What a server answered in place of what it was asked for; `status` is that of HTTP, 0 where there was none."""

    def __init__(self, sentence: str, status: int = 0) -> None:
        super().__init__(sentence)
        self.status = status


class Connection:
    """A server and the thread that talks to it, which ends with `close`."""

    def __init__(self, backend: Backend, at_once: int | None = None) -> None:
        """
        Args:
            at_once: requests in flight.

        Raises:
            InputError: the address is none, or the client is not installed.
        """
        try:
            import openai

            from driftline.decoding.backends import bounds
        except ImportError as error:
            raise InputError(f"--backend http needs {error.name}: pip install 'driftline[http]'") from error
        address = str(backend.endpoint).rstrip("/")
        self.shown = shown(backend)
        self._key = os.environ.get(KEY, "").strip()
        self._at_once = at_once or AT_ONCE
        self._errors, self._bounds = openai, bounds
        patience = openai.Timeout(_TIMEOUT, connect=_CONNECT)
        client = openai.DefaultAsyncHttpxClient(
            timeout=patience, follow_redirects=False, event_hooks={"response": [bounds.bound]}
        )
        self._client = openai.AsyncOpenAI(
            base_url=address,
            api_key=self._key or "none",
            max_retries=0,
            timeout=patience,
            default_headers=bounds.PLAIN,
            http_client=client,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="driftline-http", daemon=True)
        self._thread.start()
        self._turns = asyncio.Semaphore(self._at_once)

    def close(self) -> None:
        """Give up what is in flight; the server is told by connections that end."""
        if self._loop.is_closed():
            return
        ended = asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        try:
            ended.result(timeout=10)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=10)
            if not self._thread.is_alive():
                self._loop.close()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.close()

    def get(self, path: str) -> Any:
        """What the server has at a path, in a few tries.

        Raises:
            Refusal: it cannot be reached, refuses, or answers with no JSON.
        """
        return self._wait(self._asked(lambda: self._client.get(path, cast_to=str), None, _FIRST_TRIES))

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The first choice of an answer, and its `usage` and `system_fingerprint`, in a few tries.

        Raises:
            Refusal: likewise, or there is no choice in it.
        """
        return self._wait(self._posted(path, body, _FIRST_TRIES))

    def in_order(
        self,
        asked: Iterable[tuple[str, dict[str, Any]]],
        read: Callable[[dict[str, Any], dict[str, Any]], Result],
    ) -> Iterator[list[Result]]:
        """What is read from the answers to many requests (path and body), in their order, some at a time.

        `read` is given an answer and the body that asked for it, as soon as it is there: only what it returns is kept.

        So many are in flight; at most four times as many are started beyond the first that has no answer.

        Raises:
            Refusal: a request failed for good; all answers before it were given.
        """
        requests = iter(asked)
        waiting: deque[Any] = deque()

        async def answer(path: str, body: dict[str, Any]) -> Result:
            async with self._turns:
                return read(await self._posted(path, body, _TRIES), body)

        try:
            while True:
                for path, body in islice(requests, _AHEAD * self._at_once - len(waiting)):
                    waiting.append(asyncio.run_coroutine_threadsafe(answer(path, body), self._loop))
                if not waiting:
                    return
                found = [waiting[0].result()]
                waiting.popleft()
                while waiting and waiting[0].done() and waiting[0].exception() is None:
                    found.append(waiting.popleft().result())
                yield found
        finally:
            for request in waiting:
                request.cancel()

    def _wait(self, request: Coroutine[Any, Any, Result]) -> Result:
        """Of one request; given up when the wait is."""
        running = asyncio.run_coroutine_threadsafe(request, self._loop)
        try:
            return running.result()
        finally:
            running.cancel()

    async def _posted(self, path: str, body: dict[str, Any], tries: int) -> dict[str, Any]:
        answer = await self._asked(lambda: self._client.post(path, cast_to=str, body=body), body, tries)
        try:
            return {**answer["choices"][0], **{name: answer.get(name) for name in ("usage", "system_fingerprint")}}
        except (TypeError, KeyError, IndexError, AttributeError) as error:
            raise self._unlike_openai("an answer without choices") from error

    async def _asked(
        self, send: Callable[[], Coroutine[Any, Any, str]], body: dict[str, Any] | None, tries: int
    ) -> Any:
        """The JSON of an answer; sent again after what may pass: 408, 409, 429, 5xx, and a network that fails."""
        seconds = _LIST_TIMEOUT if body is None else _TIMEOUT
        for failed in range(1, tries + 1):
            wait = None
            try:
                with self._bounds.bounded(body, seconds):
                    text = await send()
            except self._errors.APIStatusError as error:
                status = error.status_code
                if not _passes(status) or failed == tries:
                    raise self._refusal(error, failed) from error
                wait = _asked_wait(error.response.headers, _LONGEST_ASKED if tries == _TRIES else _LONGEST_WAIT)
            except (self._errors.APITimeoutError, TimeoutError) as error:
                if failed >= min(tries, _TIMED_OUT_TRIES):
                    raise Refusal(
                        f"{self.shown} does not answer in time: look whether the server hangs; the same call goes on"
                    ) from error
            except self._bounds.Unfit as error:
                raise self._unlike_openai(str(error)) from error
            except self._errors.APIConnectionError as error:
                if isinstance(error.__cause__, self._bounds.Unfit):  # which openai's former versions wrap
                    raise self._unlike_openai(str(error.__cause__)) from error
                if failed == tries:
                    raise self._unreachable(error) from error
            else:
                try:
                    return json_line(text)
                except ValueError as error:
                    raise self._unlike_openai(_unread(text, error)) from error
            await asyncio.sleep(_backoff(failed) if wait is None else wait)
        raise AssertionError("the last try returns or raises")

    def _refusal(self, error: openai.APIStatusError, tries: int) -> Refusal:
        status, said = error.status_code, self._without_key(_message(error.response.text))
        if 300 <= status < 400:
            to = self._without_key(_one_line(error.response.headers.get("location", "")))
            return Refusal(
                f"{self.shown} sends elsewhere ({to or status}), where neither request nor key follow: give the right "
                "address for --endpoint",
                status,
            )
        if status in (401, 403):
            have = "refuses the key" if self._key else "asks for a key"
            return Refusal(f"{self.shown} {have} ({said or status}): put the right one into {KEY}", status)
        if status in (404, 405) and (not said or said == _PAGE or said.lower() in ("not found", "method not allowed")):
            return Refusal(
                f"{self.shown} has nothing at {urlsplit(str(error.request.url)).path}: give the address of an "
                "OpenAI-compatible API, which as a rule ends in /v1",
                status,
            )
        if _passes(status):
            return Refusal(
                f"{self.shown} answered {status} {tries} times in a row ({said or 'without a reason'}): make the same "
                "call later, it goes on, or take a smaller --batch-size",
                status,
            )
        return Refusal(f"{self.shown} refuses the request ({said or status}): ask for what it can do", status)

    def _unreachable(self, error: Exception) -> Refusal:
        cause = self._without_key(redacted(first_line(error.__cause__ or error))) or type(error).__name__
        return Refusal(f"{self.shown} cannot be reached ({cause}): start the server, or mend --endpoint")

    def _unlike_openai(self, what: str) -> Refusal:
        return Refusal(
            f"{self.shown} does not answer as OpenAI's API does ({self._without_key(what)}): give the address of such an "
            "API, which as a rule ends in /v1"
        )

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def shown(backend: Backend) -> str:
    """The address of a server as it may be written and printed.

    Raises:
        InputError: it is not one of http, or says more than where the server is.
    """
    address = str(backend.endpoint)
    try:
        parts = urlsplit(address)
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
    except ValueError:
        good, parts = False, urlsplit("")
    if parts.query or parts.fragment:
        raise InputError(
            "--endpoint has a query: give the server's address without it, and the key in the environment as " + KEY
        )
    if not good:
        raise InputError(f"--endpoint {redacted(address)} is no address: give one such as http://localhost:8000/v1")
    return redacted(address).rstrip("/")


_PAGE = "a web page"


def _message(text: str) -> str:
    """What a server says, in one line: of JSON what it calls the message."""
    text = text[:_READ_OF_IT]
    try:
        said: Any = json_line(text)
    except ValueError:
        said = _PAGE if text.lstrip()[:1] == "<" else text
    for name in ("error", "message", "detail"):
        if isinstance(said, dict) and said.get(name):
            said = said[name]
    if isinstance(said, list) and said and isinstance(said[0], dict):  # of FastAPI
        said = ": ".join(str(said[0][key]) for key in ("loc", "msg") if key in said[0])
    if isinstance(said, (dict, list)):
        said = json.dumps(said)
    return _one_line(str(said))


def _unread(text: str, error: ValueError) -> str:
    """What was answered in place of JSON."""
    said = _message(text)
    return said if said == _PAGE else f"{error}, where it begins with {said[:40]!r}" if said else "an empty answer"


def _one_line(text: str) -> str:
    return " ".join(redacted(text[:_READ_OF_IT]).split())[:_LONGEST_MESSAGE].rstrip(".: ")


def _passes(status: int) -> bool:
    """Whether what failed may do better in a while; 501 says that it never will."""
    return status in (408, 409, 429) or (status >= 500 and status != 501)


def _backoff(failed: int) -> float:
    """Seconds before the next try: doubled each time, and spread, so that clients do not come back together."""
    return min(0.5 * 2 ** (failed - 1), _LONGEST_WAIT) * (0.5 + random.random() / 2)


def _asked_wait(headers: Any, most: float = _LONGEST_ASKED) -> float | None:
    """Seconds that a server asks to wait, in `Retry-After` as a number or a date; None where it does not."""
    told = headers.get("retry-after", "")
    try:
        seconds = float(told)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(told).timestamp() - time()
        except (TypeError, ValueError):
            return None
    return min(max(seconds, 0.0), most) if seconds == seconds else None
