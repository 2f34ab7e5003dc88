"""A command under attack: in a process of its own, with little memory and time, whose answer is one sentence or a result."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy

MEMORY = 3 << 30  # bytes of addresses: the interpreter, numba and their libraries map one of them
SECONDS = 120  # of computing, which may begin with compiling the kernels; hanging is told by `WAIT`
WAIT = 240

_MAIN = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory}))
resource.setrlimit(resource.RLIMIT_CPU, ({seconds}, {seconds}))
from driftline.cli import main
main()
"""


@dataclass(frozen=True)
class Answer:
    """Of a command: its exit code, and what it printed and said."""

    code: int
    out: str
    said: str


def driftline(*words: str | os.PathLike[str], memory: int = MEMORY, seconds: int = SECONDS) -> Answer:
    """The answer of a command, which neither hangs nor shows a trace."""
    main = _MAIN.format(memory=memory, seconds=seconds)
    done = subprocess.run(
        [sys.executable, "-c", main, *(os.fspath(word) for word in words)],
        capture_output=True,
        timeout=WAIT,
        check=False,
    )
    answer = Answer(done.returncode, done.stdout.decode(), done.stderr.decode())
    assert "Traceback" not in answer.out + answer.said, answer.said
    return answer


def refused(*words: str | os.PathLike[str], out: Path | None = None) -> str:
    """The sentence with which a command refuses; it leaves nothing in the folder that `out` would be in."""
    before = sorted(out.parent.iterdir()) if out else []
    answer = driftline(*words, "--out", out) if out else driftline(*words)
    assert answer.code == 2, answer
    *_, sentence = answer.said.splitlines()
    assert sentence.startswith("driftline: ")
    assert out is None or sorted(out.parent.iterdir()) == before
    return sentence


def peak_memory() -> float:
    """MiB that this process has had resident at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def save_run(run: Path, steps: tuple[int, ...] = (0, 10, 20), name: str = "checkpoint-{}") -> Path:
    """A small run, that drifts."""
    rng = np.random.default_rng(0)
    start, drift = rng.standard_normal((2, 8, 6)).astype(np.float32)
    for step in steps:
        folder = run / name.format(step)
        folder.mkdir(parents=True)
        weights = start + step * drift + rng.standard_normal((8, 6)).astype(np.float32)
        safetensors.numpy.save_file({"model.up.weight": weights}, folder / "model.safetensors")
        (folder / "config.json").write_text('{"model_type": "llama"}')
    return run
