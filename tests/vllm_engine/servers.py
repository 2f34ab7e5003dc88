"""`driftline serve --backend vllm` as a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

EAGER = ("--enforce-eager",)
SMALL = ("--max-model-len", "256", "--max-num-seqs", "64", "--block-size", "32", "--enable-prompt-tokens-details")


@dataclass(frozen=True)
class Server:
    """A server that listens: its process, its address and its key."""

    process: subprocess.Popen[str]
    address: str
    key: str

    def client(self):
        import openai

        return openai.OpenAI(base_url=self.address, api_key=self.key, max_retries=0, timeout=120)


@contextmanager
def serving(log: Path, *words: str, rest: tuple[str, ...] = (*EAGER, *SMALL)) -> Iterator[Server]:
    """`driftline serve --backend vllm` until the block ends; what it says on standard error goes to `log`."""
    command = [sys.executable, "-m", "driftline", "serve", "--backend", "vllm", "--port", "0", "--key", "secret"]
    command += ["--dtype", "float32", *words, "--", *rest]
    with log.open("w") as said, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True) as process:
        try:
            assert process.stdout is not None
            line = next((line for line in process.stdout if line.startswith("listening on")), None)
            assert line is not None, log.read_text()[-4000:]
            yield Server(process, line.split()[2], "secret")
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(60)
