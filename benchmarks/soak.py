"""Ten thousand checkpoints watched while they are rotated away, ten thousand requests served: what each thousand costs.

    python benchmarks/soak.py [--only watch | server] [--each 1] [--keep]

The run grows in front of `watch`: at every look `--each` more checkpoints of 500 weights are there and the oldest are
gone, so that the last of each look is told of in full and all are read. The requests are for 8 tokens of the lab's two
bases, streamed to 8 clients; one in ten hangs up after its first token. Memory is that of the process at the
end of each thousand (resident), seconds are of all its cores.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from driftline.linearity.summary import Line
from driftline.watching.request import Following
from driftline.watching.watch import watch
from tables import Goal, Table, goals

KEPT = 3  # checkpoints beside those that were not read yet
SHAPE = (20, 25)
CLIENTS, PROMPT, TOKENS, HANGS_UP = 8, 16, 8, 10
_COLUMNS = (
    {"key": "what", "title": "up to"},
    {"key": "milliseconds", "title": "CPU ms each", "digits": 3},
    {"key": "mebibytes", "title": "MiB", "decimals": 0},
)


def resident() -> float:
    """MiB of this process."""
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


class Thousands:
    """Seconds of CPU and memory, noted after each part of a count."""

    def __init__(self, of: int, what: str) -> None:
        self.part, self.what = max(of // 10, 1), what
        self.rows: list[dict[str, Any]] = []
        self._count, self._spent = 0, time.process_time()

    def at(self, count: int) -> None:
        if count < self._count + self.part:
            return
        spent = time.process_time()
        each = 1000 * (spent - self._spent) / (count - self._count)
        self.rows.append({"what": f"{count:,} {self.what}", "milliseconds": each, "mebibytes": resident()})
        self._count, self._spent = count, spent
        print(f"{count:8,} {self.what}: {each:.1f} ms each, {resident():.0f} MiB", flush=True)

    def goals(self) -> list[Goal]:
        """The last against the second: the first thousand holds the start."""
        second, last = self.rows[1], self.rows[-1]
        return [
            Goal(
                f"{self.what}: CPU of the last tenth over the second",
                last["milliseconds"] / second["milliseconds"],
                most=1.5,
            ),
            Goal(
                f"{self.what}: MiB of the last tenth beyond the second",
                last["mebibytes"] - second["mebibytes"],
                most=32,
            ),
        ]


class Done(Exception):
    pass


class Growing:
    """A run that has so many more checkpoints each time it is asked to grow, and few old ones."""

    def __init__(self, run: Path, each: int) -> None:
        self.run, self.each, self.written = run, each, 0
        self._rng = np.random.default_rng(0)
        self._weights = self._rng.standard_normal(SHAPE).astype(np.float32)

    def grow(self) -> None:
        for _ in range(self.each):
            self._weights = self._weights + 0.01 * self._rng.standard_normal(SHAPE).astype(np.float32)
            folder = self.run / f"checkpoint-{10 * self.written}"
            folder.mkdir(parents=True)
            save_file({"a.weight": self._weights}, folder / "model.safetensors")
            (folder / "config.json").write_text(json.dumps({"model_type": "soak"}), encoding="utf-8")
            self.written += 1
            old = self.run / f"checkpoint-{10 * (self.written - 1 - KEPT - self.each)}"
            if old.is_dir():
                shutil.rmtree(old)


def watched(count: int, each: int) -> Thousands:
    """A run of so many checkpoints, followed in this process."""
    with tempfile.TemporaryDirectory() as scratch:
        growing = Growing(Path(scratch, "run"), each)
        growing.grow()
        found, read = Thousands(count, "checkpoints"), 0

        def show(line: Line) -> None:
            nonlocal read
            read += 1
            found.at(read)
            if read >= count:
                raise Done
            if read == growing.written:
                growing.grow()

        def say(sentence: str) -> None:
            if sentence.startswith("skipped"):
                raise SystemExit(f"a checkpoint was not read: {sentence}")

        try:
            watch(Following((f"{scratch}/run",), interval=0.01, settle=0.0), Path(scratch, "out"), show=show, say=say)
        except Done:
            summary = json.loads(Path(scratch, "out", "summary.json").read_text(encoding="utf-8"))
            print(f"judged by {len(summary['steps'])} checkpoints: {summary['verdict']['sentence']}")
    return found


def asked(count: int) -> Thousands:
    """So many requests to the embedded server, of the lab's two bases, which runs in a thread of this process."""
    from driftline.decoding.sampler import Sampler
    from driftline.lab.model import load, shipped_base
    from server import served

    (early, tokenizer), (late, _) = (load(shipped_base(task)) for task in ("sums", "strategy"))
    found = Thousands(count, "requests")
    done = 0
    prompts = np.random.default_rng(0).integers(0, late.config.vocab_size, (count, PROMPT)).tolist()
    sampler = Sampler(late, tokenizer, early=early, alpha=1.5)
    with served(sampler) as address, ThreadPoolExecutor(CLIENTS) as pool:

        def ask(number: int) -> None:
            body = {"model": "model", "prompt": prompts[number], "max_tokens": TOKENS, "seed": number, "stream": True}
            request = urllib.request.Request(address, json.dumps(body).encode(), {"content-type": "application/json"})
            with urllib.request.urlopen(request, timeout=600) as answer:
                for line in answer:
                    if b'"error"' in line:
                        raise SystemExit(f"the server says: {line.decode()}")
                    if number % HANGS_UP == 0 and line.startswith(b"data: {"):
                        return

        for _ in pool.map(ask, range(count)):
            done += 1
            found.at(done)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("watch", "server"), nargs="+", default=("watch", "server"))
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--each", type=int, default=1, help="checkpoints that are new at each look")
    parser.add_argument("--keep", action="store_true", help="write the records that RESULTS.md is rendered from")
    arguments = parser.parse_args()
    if arguments.count < 20 or (arguments.keep and (len(arguments.only) < 2 or arguments.count != 10_000)):
        parser.error("--count is 20 at least; --keep is of both parts and of 10,000 each")
    rows: list[dict[str, Any]] = []
    aimed: list[Goal] = []
    for part in arguments.only:
        found = watched(arguments.count, arguments.each) if part == "watch" else asked(arguments.count)
        rows += found.rows
        aimed += found.goals()
    print()
    each = f" --each {arguments.each}" if arguments.each != 1 else ""
    Table(f"python benchmarks/soak.py{each}", _COLUMNS, rows).show("soak", keep=arguments.keep)
    goals(f"python benchmarks/soak.py{each}", aimed).show("soak-goals", keep=arguments.keep)


if __name__ == "__main__":
    main()
