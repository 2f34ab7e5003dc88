"""Every attack has a limit on time and memory, beside those that it sets itself."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

SECONDS = 120  # of the clock, on a machine that does other work too
MEMORY = 4 << 30  # bytes of addresses beyond what the process has


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SECONDS))


@pytest.fixture(autouse=True)
def limited_memory() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)
