"""What the server has done and is doing, for Prometheus."""

from __future__ import annotations

from driftline.decoding.server.scheduler import Scheduler
from driftline.errors import InputError

try:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
    from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
except ImportError as missing:
    raise InputError(f"serving needs {missing.name}: pip install 'driftline[serve]'") from missing

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500)


class Metrics:
    """Counts of one application; two in a process do not mix."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, scheduler: Scheduler) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "driftline_requests", "Requests answered, by their status", ["endpoint", "status"], registry=registry
        )
        self.tokens = Counter("driftline_tokens", "Tokens read and decoded", ["kind"], registry=registry)
        self.seconds = Histogram(
            "driftline_request_seconds", "From a request to its end", ["endpoint"], registry=registry, buckets=_SECONDS
        )
        self.first = Histogram(
            "driftline_first_token_seconds", "From a request to its first token", registry=registry, buckets=_SECONDS
        )
        queued = Gauge("driftline_queued_requests", "Requests that wait for a place in the batch", registry=registry)
        queued.set_function(lambda: scheduler.queued)
        rows = Gauge("driftline_batch_rows", "Rows in the batch, and those whose prompts are read", registry=registry)
        rows.set_function(lambda: scheduler.decoding)

    def text(self) -> bytes:
        return generate_latest(self._registry)
