"""How the benchmarks measure: wall clock including start-up, and the kernel's high-water mark of resident memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

DRIFTLINE = [sys.executable, "-m", "driftline"]


def measure(command: list[str], **environment: str) -> tuple[float, float]:
    """Wall clock in seconds and peak resident memory in GiB of one command."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ | environment)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"{' '.join(command)} failed: {process.stderr.read().decode() if process.stderr else ''}")
    return seconds, usage.ru_maxrss / 2**20


def best(
    command: list[str], repeats: int, *, before: Callable[[], object] = lambda: None, **environment: str
) -> tuple[float, float]:
    """The fastest of several calls, and the highest memory; `before` each call, unmeasured."""
    results = []
    for _ in range(repeats):
        before()
        results.append(measure(command, **environment))
    return min(seconds for seconds, _ in results), max(memory for _, memory in results)


def processor_seconds(command: list[str], repeats: int) -> float:
    """The least processor time of several calls, user and system; Python may keep what it compiles."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    found = []
    for _ in range(repeats):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{' '.join(command)} failed")
        found.append(usage.ru_utime + usage.ru_stime)
    return min(found)


def timed(work: Callable[[], object], *, before: Callable[[], object] = lambda: None) -> float:
    """Wall clock of some work; `before` it, unmeasured."""
    before()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def forget(files: Iterable[str | Path]) -> None:
    """Drop the files from the page cache, so that the next reading is cold."""
    os.sync()
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
