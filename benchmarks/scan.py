"""The scan against `cat` of the same files and against the plain way, and its memory as the model grows.

    python benchmarks/scan.py              0.4 billion parameters x 8 checkpoints (6.4 GB)
    python benchmarks/scan.py --small      a run of 40 million, to see that it works

Ratios between things measured in one run, on files in the page cache; wall clock includes start-up.
Peak memory is the kernel's high-water mark of the process's resident set.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections import deque
from pathlib import Path

from driftline import open_trajectory, scan
from generate import generate
from measure import DRIFTLINE, best, measure, timed

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--data", type=Path, default=Path("bench-data"))
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    size = 0.04e9 if arguments.small else 0.4e9
    run = arguments.data / f"run-{size:.0e}"
    parameters = generate(run, size, 8)
    files = sorted(map(str, run.glob("*/*.safetensors")))
    gigabytes = sum(os.path.getsize(file) for file in files) / 1e9
    print(
        f"{parameters / 1e9:.3f} billion parameters x 8 bf16 checkpoints, {gigabytes:.2f} GB, {os.cpu_count()} cores\n"
    )

    with tempfile.TemporaryDirectory() as scratch:
        analyze = [*DRIFTLINE, "analyze", str(run), "--out", f"{scratch}/out", "--overwrite", "--quiet"]
        measure(analyze)  # compiles the kernels once, as after an installation
        cat = best(["sh", "-c", 'cat "$@" > /dev/null', "cat", *files], arguments.repeats)
        driftline = best(analyze, arguments.repeats)
        plain = best([sys.executable, str(HERE / "plain.py"), str(run)], 1)
        permuted = best([sys.executable, str(HERE / "plain.py"), str(run), "--randperm"], 1)
    rows = [
        ("cat of the same files", *cat),
        ("driftline analyze, all weights", *driftline),
        ("the plain way, 0.1 %", *plain),
        ("the same, drawn by randperm", *permuted),
    ]
    print(f"{'':32}{'seconds':>9}{'GB/s':>8}{'peak GiB':>10}{'time / plain':>14}")
    for name, seconds, memory in rows:
        print(f"{name:32}{seconds:9.2f}{gigabytes / seconds:8.2f}{memory:10.2f}{seconds / plain[0]:14.3f}")
    trajectory = open_trajectory(run)
    seconds = min(timed(lambda: deque(scan(trajectory), maxlen=0)) for _ in range(arguments.repeats))
    print(f"\nthe scan alone, kernels loaded: {seconds:.2f} s, {gigabytes / seconds:.2f} GB/s")
    print(
        f"driftline / cat: {driftline[0] / cat[0]:.2f} times the time; driftline / plain: {driftline[1] / plain[1]:.2f} of the memory\n"
    )

    print("memory as the model grows (3 checkpoints)")
    for billions in (0.02, 0.04) if arguments.small else (0.1, 0.4, 1.2):
        grown = arguments.data / f"grown-{billions}"
        count = generate(grown, billions * 1e9, 3)
        with tempfile.TemporaryDirectory() as scratch:
            seconds, memory = measure([*DRIFTLINE, "analyze", str(grown), "--out", f"{scratch}/o", "--quiet"])
        print(f"{count / 1e9:8.3f} billion parameters: {memory:.2f} GiB, {seconds:.1f} s")
        shutil.rmtree(grown)


if __name__ == "__main__":
    main()
