"""Running commands to their end or to a SIGKILL, in processes that start with the libraries loaded."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable

from driftline.cli import main

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    [
        "driftline.cli",
        "driftline.decoding.generate",
        "driftline.evaluation.sweep",
        "driftline.training.driver",
        "scipy.stats",
        "transformers",
    ]
)


def _run(words: list[str]) -> None:
    sys.argv = ["driftline", *words]
    os.setpgid(0, 0)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        main()


def killed(words: list[str], after: float, *, once: Callable[[], bool] = lambda: True) -> bool:
    """Run a command in a process group of its own and kill all of it; False if it ended before.

    The moment is so many seconds after something is `once` true.
    """
    process = _forks.Process(target=_run, args=(words,))
    process.start()
    while not once() and process.is_alive():
        time.sleep(0.002)
    process.join(after)
    assert process.pid is not None
    with contextlib.suppress(ProcessLookupError):  # before it has its group, or when it has ended
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return process.exitcode != 0


def finished(words: list[str]) -> float:
    """Run a command to its end; its seconds."""
    began = time.monotonic()
    process = _forks.Process(target=_run, args=(words,))
    process.start()
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - began
