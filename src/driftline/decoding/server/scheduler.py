"""Who decodes when: one thread owns the batch, and the rows of all requests join it and leave it between rounds.

A turn of the thread: rows whose client has left go; waiting rows come, in turn among the requests, as far as places
and tokens last; a piece of a prompt is read; every row in the batch is extended. The batch is dense, so that it holds
rows times the longest of them in tokens. Where that grows beyond what may be held, the rows that came last wait
again, and are read anew when there is room: what a row becomes does not depend on when it is decoded.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from driftline.decoding.sampler import Sampler
from driftline.decoding.speculative import MOST_DRAFTS, Arrivals, Batch, OpenCompletion, TokenScore
from driftline.errors import first_line

_PIECE = 512  # tokens of prompts that are read between two rounds
_LOGITS = 2**26  # numbers of logits that are held at once, or one token of each row
_ROOM = 64  # tokens that a row must be able to grow by when it joins


class Step(NamedTuple):
    """What a row gained in a round."""

    place: int  # of the row in its request
    ids: list[int]
    scores: list[TokenScore]
    finish_reason: str | None


class Busy(Exception):
    """More requests wait than may, or the server is about to stop."""


class Failed(Exception):
    """The models could not go on; the message says why."""


@dataclass(eq=False)
class Job:
    """The rows of one request; `tell` is called from the scheduler's thread, with steps or with what ended it all."""

    rows: list[OpenCompletion]
    stop: Sequence[str]
    tell: Callable[[list[Step] | Exception], None]
    deadline: float = float("inf")  # time.monotonic() after which it is cancelled
    cancelled: bool = False
    running: int = 0
    waiting: deque[OpenCompletion] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.waiting.extend(self.rows)


class Scheduler:
    """Decodes jobs in a thread of its own; all methods may be called from any other."""

    def __init__(
        self, sampler: Sampler, *, max_batch: int = 32, max_queue: int = 128, max_tokens: int | None = None
    ) -> None:
        """
        Args:
            max_batch: rows that are decoded at once.
            max_queue: requests that may wait without a row in the batch.
            max_tokens: that the batch may hold, its padding counted; None: what a quarter of the free memory holds.
        """
        self.sampler, self.max_batch, self.max_queue = sampler, max_batch, max_queue
        self.max_tokens = max_tokens or tokens_that_fit(sampler)
        self._share = max(1, max_batch * 3 // 4)  # of one request, so that a short one beside it finds a place
        self._vocabulary = sampler.vocabulary
        self._changed = threading.Condition()
        self._jobs: list[Job] = []
        self._owners: dict[OpenCompletion, tuple[Job, int]] = {}
        self._reading: deque[Arrivals] = deque()
        self._batch = self._new_batch()
        self._open, self._stopping = True, False
        self._thread = threading.Thread(target=self._run, name="decoding", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Have a job decoded.

        Raises:
            Busy: too many wait.
        """
        with self._changed:
            if not self._open:
                raise Busy("the server is about to stop: ask another")
            if self.queued - max(self.max_batch - self.decoding, 0) >= self.max_queue:  # beside those with a free place
                raise Busy(f"{self.max_queue} requests wait already: try again later")
            self._jobs.append(job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Forget a job; its rows go before the next round."""
        job.cancelled = True
        with self._changed:
            self._changed.notify()

    def close(self) -> None:
        """Take no more jobs."""
        self._open = False

    def cut(self) -> None:
        """End all jobs, and say so to those who wait for them."""
        self.close()
        with self._changed:
            jobs = list(self._jobs)
        for job in jobs:
            if not job.cancelled:
                job.tell(Busy("the server stops: ask another"))
            self.cancel(job)

    def stop(self, timeout: float) -> bool:
        """End the thread; whether it ended within `timeout` seconds."""
        self.close()
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def queued(self) -> int:
        """Requests without a row in the batch."""
        return sum(1 for job in list(self._jobs) if job.waiting and not job.running and not job.cancelled)

    @property
    def decoding(self) -> int:
        """Rows in the batch, or whose prompts are being read."""
        return sum(job.running for job in list(self._jobs))

    def _run(self) -> None:
        import torch

        with torch.inference_mode():
            while True:
                with self._changed:
                    while not self._jobs and not self._stopping:
                        self._changed.wait()
                    if self._stopping:
                        return
                try:
                    self._drop_cancelled()
                    self._admit()
                    self._read()
                    self._decode()
                    if not self._jobs:
                        self._batch = self._new_batch()  # so that no memory is held while nothing is asked
                except Exception as error:  # out of memory, or a bug: the requests in hand fail, the next ones need not
                    self._fail(error)

    def _drop_cancelled(self) -> None:
        now = time.monotonic()
        for job in [job for job in self._jobs if job.cancelled or now > job.deadline]:
            job.cancelled = True
            for row in job.rows:
                row.finish_reason = row.finish_reason or "cancelled"
            self._forget(job)
        for _ in range(len(self._reading)):
            arrivals = self._reading.popleft()
            if any(row.finish_reason is None for row in arrivals.rows):
                self._reading.append(arrivals)

    def _admit(self) -> None:
        """Take rows in, each from the request with the fewest in hand, the oldest first."""
        fresh: dict[object, list[OpenCompletion]] = {}
        longest = max(map(_length, self._in_hand()), default=0)
        while (count := self.decoding) < self.max_batch:
            able = [job for job in self._jobs if job.waiting and job.running < self._share]
            if not able:
                break
            job = min(able, key=lambda job: job.running)
            row = job.waiting[0]
            longest = max(longest, _length(row))
            if count and (count + 1) * (longest + _ROOM) > self.max_tokens:
                break
            job.waiting.popleft()
            job.running += 1
            self._owners[row] = job, next(place for place, other in enumerate(job.rows) if other is row)
            alone = tuple(row.prompt + row.ids) if _length(row) > _PIECE else None  # padding to a long one costs
            fresh.setdefault((alone, row.score_prompt), []).append(row)
        self._reading.extend(map(self._batch.arrivals, fresh.values()))

    def _read(self) -> None:
        """Read a piece of the prompts that have waited longest for it; let rows join whose prompts are read."""
        if not self._reading:
            return
        arrivals = self._reading.popleft()
        piece = _PIECE
        if any(row.score_prompt for row in arrivals.rows):
            piece = min(piece, _LOGITS // self._vocabulary)
        arrivals.read(max(1, piece // len(arrivals.ids)))
        if arrivals.left:
            self._reading.append(arrivals)
            return
        self._batch.join(arrivals)
        ended = [row for row in arrivals.rows if row.limit == 0 and row.finish_reason is None]
        for row in ended:
            row.finish_reason = "length"
        self._tell((row, 0) for row in ended)

    def _decode(self) -> None:
        rows = len(self._batch.rows)
        if not rows:
            return
        drafts = max(1, min(self.sampler.drafts(), _LOGITS // (rows * self._vocabulary)))
        gained = []
        for row, tokens, scores in self._batch.round(drafts, self.sampler.acceptance):
            stop, before = self._owners[row][0].stop, len(row.ids)
            row.take(tokens, self.sampler.end_ids, partial(self.sampler.stops, stop=stop), scores)
            gained.append((row, before))
        self._tell(gained)
        self._keep_within_budget()

    def _keep_within_budget(self) -> None:
        held = [row for row in self._batch.rows if row.finish_reason is None]
        leaving = []
        while len(held) > 1 and len(held) * (max(map(_length, held)) + MOST_DRAFTS) > self.max_tokens:
            leaving.append(held.pop())
        if leaving:
            self._batch.leave(leaving)
        for row in leaving:
            job, _ = self._owners.pop(row)
            job.running -= 1
            job.waiting.appendleft(row)

    def _tell(self, gained: Iterable[tuple[OpenCompletion, int]]) -> None:
        """Say what rows have gained beyond their first tokens, a call for each request."""
        steps: dict[Job, list[Step]] = {}
        for row, before in gained:
            job, place = self._owners[row]
            steps.setdefault(job, []).append(Step(place, row.ids[before:], row.scores[before:], row.finish_reason))
            if row.finish_reason:
                job.running -= 1
                del self._owners[row]
        for job, found in steps.items():
            if not job.running and not job.waiting:
                self._forget(job)
            if not job.cancelled:
                job.tell(found)

    def _fail(self, error: Exception) -> None:
        print(f"driftline: decoding failed: {first_line(error)}", file=sys.stderr, flush=True)
        self._reading.clear()
        self._batch = self._new_batch()
        for job in [job for job in self._jobs if job.running]:
            self._forget(job)
            job.tell(Failed(f"decoding failed: {first_line(error)}"))

    def _forget(self, job: Job) -> None:
        for row in job.rows:
            self._owners.pop(row, None)
        job.waiting.clear()
        job.running = 0
        with self._changed:
            if job in self._jobs:
                self._jobs.remove(job)

    def _in_hand(self) -> list[OpenCompletion]:
        rows = [*self._batch.rows, *(row for arrivals in self._reading for row in arrivals.rows)]
        return [row for row in rows if row.finish_reason is None]

    def _new_batch(self) -> Batch:
        return Batch(self.sampler.late, self.sampler.early, context=self.sampler.context)


def _length(row: OpenCompletion) -> int:
    return len(row.prompt) + len(row.ids)


def tokens_that_fit(sampler: Sampler) -> int:
    """Tokens whose keys and values take a quarter of the memory that is free; at least the model's context."""
    import torch

    models = [sampler.late] if sampler.early is None else [sampler.late, sampler.early]
    size = 0
    for model in models:
        config = model.config.get_text_config()
        heads = getattr(config, "num_attention_heads", 1)
        wide = getattr(config, "head_dim", None) or config.hidden_size // heads
        numbers = config.num_hidden_layers * (getattr(config, "num_key_value_heads", None) or heads) * wide * 2
        size += numbers * (getattr(config, "dtype", None) or torch.float32).itemsize
    device = sampler.late.device
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _free_memory()
    return max(sampler.context or 0, free // 4 // size)


def _free_memory() -> int:
    """Bytes that programs may still take without swapping; 8 GiB where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            found = dict(line.split(":") for line in file)
        return int(found["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 8 * 2**30
