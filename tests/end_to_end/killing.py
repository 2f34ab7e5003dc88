"""Running commands to their end or to a SIGKILL, in processes that start with the libraries loaded."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from driftline.cli import main

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    [
        "driftline.cli",
        "driftline.decoding.generate",
        "driftline.evaluation.sweep",
        "driftline.forecast.backtest",
        "driftline.lab.run",
        "driftline.linearity.analysis",
        "driftline.report.analysis",
        "driftline.report.backtest",
        "driftline.training.driver",
        "driftline.watching.watch",
        "driftline.writing.extrapolate",
        "scipy.stats",
        "transformers",
    ]
)


def _run(words: list[str]) -> None:
    sys.argv = ["driftline", *words]
    os.setpgid(0, 0)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        main()


def _call(words: list[str], folder: Path, files: Sequence[str]) -> None:
    os.chdir(folder)
    for number, name in enumerate(files):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), number)
    sys.argv = ["driftline", *words]
    main()


def called(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, with nothing on its standard input: its exit code, and what it printed and said."""
    with tempfile.TemporaryDirectory() as place:
        said = [os.path.join(place, name) for name in ("out", "err")]
        process = _forks.Process(target=_call, args=(words, folder, [os.devnull, *said]))
        process.start()
        process.join(300)
        process.kill()
        process.join()
        assert process.exitcode is not None
        return subprocess.CompletedProcess(words, process.exitcode, *(Path(name).read_text() for name in said))


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
