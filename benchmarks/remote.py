"""A remote run against the same files on this disk: requests, bytes, wall clock and memory.

    python benchmarks/remote.py                0.04 billion parameters x 8 bf16 checkpoints, 0 and 50 ms to each answer

A server in a process of its own answers range requests over the loopback after a pause that stands for the way to an
object store; its bandwidth is that of this machine. Wall clock includes start-up.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import tempfile
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from generate import generate
from measure import DRIFTLINE, measure


class Slow(SimpleHTTPRequestHandler):
    """Serves ranges, after a pause, and counts."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *args: Any, pause: float, counts: Any, **kwargs: Any) -> None:
        self.pause, self.counts = pause, counts
        super().__init__(*args, **kwargs)

    def send_head(self) -> Any:
        time.sleep(self.pause)
        with self.counts.get_lock():
            self.counts[0] += 1
        return super().send_head()

    def do_GET(self) -> None:
        bounds = re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not bounds:
            return super().do_GET()
        time.sleep(self.pause)
        first, last = int(bounds[1]), int(bounds[2])
        with open(self.translate_path(self.path), "rb") as file:
            found = os.pread(file.fileno(), last + 1 - first, first)
        self.send_response(206)
        self.send_header("Content-Length", str(len(found)))
        self.end_headers()
        self.wfile.write(found)
        with self.counts.get_lock():
            self.counts[1] += 1
            self.counts[2] += len(found)

    def log_message(self, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that asks whether a file is there hangs up before its bytes."""


def serve(folder: str, pause: float, counts: Any, port: Any) -> None:
    with Server(("127.0.0.1", 0), partial(Slow, directory=folder, pause=pause, counts=counts)) as server:
        port.value = server.server_port
        server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("bench-data"))
    arguments = parser.parse_args()
    run = arguments.data / "run-4e+07"
    parameters = generate(run, 0.04e9, 8)
    print(f"{parameters / 1e9:.3f} billion parameters x 8 bf16 checkpoints")
    print(f"{'':24}{'seconds':>9}{'peak GiB':>10}{'ranges':>8}{'others':>8}{'bytes':>14}")
    with tempfile.TemporaryDirectory() as scratch:

        def analyze(name: str, source: str) -> tuple[float, float]:
            found = measure([*DRIFTLINE, "analyze", source, "--out", f"{scratch}/{name}", "--overwrite", "--quiet"])
            record = json.loads(Path(scratch, name, "summary.json").read_text())
            records.append({key: value for key, value in record.items() if key not in ("run", "cost")})
            return found

        records: list[dict[str, Any]] = []
        analyze("first", str(run))  # compiles the kernels once, as after an installation
        seconds, memory = analyze("local", str(run))
        print(f"{'on this disk':24}{seconds:9.2f}{memory:10.2f}")
        for pause in (0.0, 0.05):
            counts, port = multiprocessing.Array("q", 3), multiprocessing.Value("i", 0)
            server = multiprocessing.Process(target=serve, args=(str(run.resolve()), pause, counts, port), daemon=True)
            server.start()
            while not port.value:
                time.sleep(0.05)
            seconds, memory = analyze("remote", f"http://127.0.0.1:{port.value}")
            server.terminate()
            others, ranges, nbytes = counts[:]
            name = f"http, {pause * 1000:.0f} ms"
            print(f"{name:24}{seconds:9.2f}{memory:10.2f}{ranges:8}{others:8}{nbytes:14,}")
        print(f"summaries equal: {all(record == records[0] for record in records)}")


if __name__ == "__main__":
    main()
