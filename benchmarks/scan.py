"""The scan against `cat` of the same files and the plain way; Ray against threads; memory as the model grows.

    python benchmarks/scan.py                  0.4 billion parameters x 8 checkpoints (6.4 GB); memory up to 3 billion (18 GB)
    python benchmarks/scan.py --small          a run of 40 million, to see that it works
    python benchmarks/scan.py --only memory    one part: speed, lengths, disk, ray or memory

Ratios between things measured in one run; wall clock includes start-up. Warm: in the page cache, best of three; cold:
dropped from it first, each in turn, medians of five. Peak memory is the kernel's high-water mark of the process's resident set.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from driftline import Trajectory, open_trajectory, scan
from driftline.engines import open_engine
from generate import generate
from measure import DRIFTLINE, best, forget, measure, timed
from tables import Goal, Table, goals

HERE = Path(__file__).parent
PARTS = ("speed", "lengths", "disk", "ray", "memory")
_SPEED = (
    {"key": "what", "title": ""},
    {"key": "seconds", "title": "seconds", "decimals": 2},
    {"key": "rate", "title": "GB/s", "digits": 3},
    {"key": "cold", "title": "cold", "decimals": 2},
    {"key": "cold_rate", "title": "GB/s", "digits": 3},
    {"key": "peak_gib", "title": "peak GiB", "decimals": 2},
    {"key": "over_plain", "title": "time / plain", "decimals": 2},
)
_RAY = (
    {"key": "what", "title": "analyze on one node"},
    {"key": "seconds", "title": "seconds", "decimals": 2},
    {"key": "over_threads", "title": "/ threads", "decimals": 2},
    {"key": "peak_gib", "title": "peak GiB", "decimals": 2},
    {"key": "scan", "title": "the scan alone", "decimals": 2},
    {"key": "scan_over_threads", "title": "/ threads", "decimals": 2},
)
_MEMORY = (
    {"key": "billions", "title": "billion parameters, 3 checkpoints", "decimals": 3},
    {"key": "peak_gib", "title": "peak GiB", "decimals": 2},
)


_LENGTHS = (
    {"key": "checkpoints", "title": "checkpoints"},
    {"key": "rate", "title": "GB/s", "digits": 3},
    {"key": "nanoseconds", "title": "core ns a value", "digits": 3},
    {"key": "floor", "title": "of them the Gram's floor", "digits": 3},
    {"key": "beyond", "title": "beyond it", "digits": 3},
)
_DISK = (
    {"key": "disk", "title": "the disk gives, GB/s", "decimals": 2},
    {"key": "rate", "title": "the scan takes, GB/s", "decimals": 2},
    {"key": "share", "title": "of it", "percent": True},
)


def analyze(run: Path, out: str, *options: str) -> list[str]:
    return [*DRIFTLINE, "analyze", str(run), "--out", out, "--overwrite", "--quiet", *options]


def speed(run: Path, files: Sequence[str], gigabytes: float, repeats: int, *, keep: bool) -> list[Goal]:
    cat = ["sh", "-c", 'cat "$@" > /dev/null', "cat", *files]
    plain = [sys.executable, str(HERE / "plain.py"), str(run)]
    with tempfile.TemporaryDirectory() as scratch:
        ours = analyze(run, f"{scratch}/out")
        measure(ours)  # compiles the kernels once, as after an installation
        warm = {
            "`cat` of the same files": best(cat, repeats),
            "`driftline analyze`: every weight, Gram, null, report": best(ours, repeats),
            "the plain way: 0.1 % of the weights, drawn by `randint`": best(plain, 1),
            "the same, drawn by `randperm` as the paper's script does": best([*plain, "--randperm"], 1),
        }
        trajectory = open_trajectory(run)
        scan_seconds = min(timed(lambda: deque(scan(trajectory), maxlen=0)) for _ in range(repeats))
        turns = [_cold_turn(files, trajectory, cat, ours) for _ in range(2 * repeats - 1)]
        cold_plain, _ = best(plain, 1, before=lambda: forget(files))
    cat_cold, ours_cold, scan_cold = np.median(turns, axis=0)
    cold = [cat_cold, ours_cold, cold_plain]
    _, ours_warm, plain_warm, _ = warm.values()
    rows: list[dict[str, Any]] = [
        {
            "what": what,
            "seconds": seconds,
            "rate": gigabytes / seconds,
            "cold": cold[place] if place < len(cold) else None,
            "cold_rate": gigabytes / cold[place] if place < len(cold) else None,
            "peak_gib": memory,
            "over_plain": seconds / plain_warm[0],
        }
        for place, (what, (seconds, memory)) in enumerate(warm.items())
    ]
    threads = len(os.sched_getaffinity(0))
    alone = f"the scan alone, kernels loaded ({threads} thread{'s' * (threads > 1)})"
    rows.append(
        {
            "what": alone,
            "seconds": scan_seconds,
            "rate": gigabytes / scan_seconds,
            "cold": scan_cold,
            "cold_rate": gigabytes / scan_cold,
        }
    )
    Table("python benchmarks/scan.py --only speed", _SPEED, rows).show("scan-speed", keep=keep)
    print(f"driftline / plain: {ours_warm[1] / plain_warm[1]:.2f} of the memory")
    return [
        Goal("the scan cold, times `cat` cold", _times(turns, 2), most=1.3),
        Goal("`analyze` cold, start and page included, times `cat` cold", _times(turns, 1), most=1.3),
        Goal("`analyze`, peak memory", ours_warm[1], most=1, unit="GiB"),
    ]


def _cold_turn(files: Sequence[str], trajectory: Trajectory, cat: list[str], ours: list[str]) -> list[float]:
    """Seconds of `cat`, of `analyze` and of the scan alone, one after another: a disk's pace changes within minutes."""
    found = []
    for command in (cat, ours):
        forget(files)
        found.append(measure(command)[0])
    return [*found, timed(lambda: deque(scan(trajectory), maxlen=0), before=lambda: forget(files))]


def _times(turns: Sequence[Sequence[float]], place: int) -> float:
    """How many times `cat` it took, in the middle one of the turns."""
    return float(np.median([turn[place] / turn[0] for turn in turns]))


def scanned(run: Path, repeats: int) -> tuple[float, float]:
    """Bytes of a run, and the seconds that the scan alone takes of them, kernels loaded."""
    trajectory = open_trajectory(run)
    nbytes = sum(tensor.size * 2 * len(trajectory.steps) for tensor in trajectory)
    return nbytes, min(timed(lambda: deque(scan(trajectory), maxlen=0)) for _ in range(repeats + 1))


def product_rate() -> float:
    """Products with addition a second that numpy's library of linear algebra does on all cores, in float32."""
    square = np.random.default_rng(0).random((2048, 2048), np.float32)
    return 2048**3 / min(timed(lambda: square @ square) for _ in range(5))


def lengths(data: Path, counts: Sequence[int], values: float, repeats: int, *, keep: bool) -> list[Goal]:
    """The scan of runs of many lengths, of as many values; what the Gram's T (T + 1) / 2 products take at least."""
    cores = len(os.sched_getaffinity(0))
    product = cores / product_rate()  # core seconds
    rows = []
    for count in counts:
        run = data / f"run-of-{count}-{values:.0e}"
        generate(run, values / count, count, layers=1, vocabulary=int(values / count / 80))  # one large tensor
        nbytes, seconds = scanned(run, repeats)
        spent, floor = cores * seconds / (nbytes / 2) * 1e9, (count + 1) / 2 * product * 1e9
        rows.append(
            {
                "checkpoints": count,
                "rate": nbytes / seconds / 1e9,
                "nanoseconds": spent,
                "floor": floor,
                "beyond": spent - floor,
            }
        )
    Table("python benchmarks/scan.py --only lengths", _LENGTHS, rows).show("scan-lengths", keep=keep)
    usual = [row for row in rows if 3 <= row["checkpoints"] <= 20]
    cliffs = [max(a["beyond"], b["beyond"]) / min(a["beyond"], b["beyond"]) for a, b in pairwise(rows)]
    return [
        *(Goal(f"the scan of {row['checkpoints']} checkpoints", row["rate"], least=4, unit="GB/s") for row in usual),
        Goal("beyond the Gram's floor, the largest jump from one length to the next", max(cliffs), most=2),
    ]


class SlowDisk:
    """Reads that give so many bytes a second in all, as one disk would, whoever asks; it reads ahead, by 4 MiB in all."""

    AHEAD = 4 << 20

    def __init__(self, rate: float) -> None:
        self._rate, self._free, self._turn = rate, 0.0, threading.Lock()
        self._read = os.preadv

    def __enter__(self) -> None:
        os.preadv = self._slowly  # type: ignore[assignment]

    def __exit__(self, *_: object) -> None:
        os.preadv = self._read

    def _slowly(self, descriptor: int, buffers: Any, position: int) -> int:
        found = self._read(descriptor, buffers, position)
        with self._turn:
            idle = time.perf_counter() - self.AHEAD / self._rate
            self._free = max(self._free, idle) + found / self._rate
            wait = self._free - time.perf_counter()
        time.sleep(max(wait, 0.0))
        return found


def disk(run: Path, repeats: int, *, keep: bool) -> list[Goal]:
    """The scan of a run on ever slower disks: what they give is what it takes, once it could take more."""
    nbytes, alone = scanned(run, repeats)
    rows = []
    for rate in (0.25e9, 0.5e9, 1e9, 2e9, 4e9, 8e9):
        with SlowDisk(rate):
            _, seconds = scanned(run, 0)
        taken = nbytes / seconds
        rows.append({"disk": rate / 1e9, "rate": taken / 1e9, "share": taken / rate})
    print(f"without such a disk {nbytes / alone / 1e9:.2f} GB/s")
    Table("python benchmarks/scan.py --only disk", _DISK, rows).show("scan-disk", keep=keep)
    bound = [row["share"] for row in rows if row["disk"] * 1e9 <= nbytes / alone / 2]
    return [
        Goal("of a disk that gives half of what the scan could take, or less", 100 * min(bound), least=90, unit="%")
    ]


def peak(_: Any) -> tuple[int, float]:
    """Process and its peak memory in GiB."""
    return os.getpid(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def ray(run: Path, repeats: int) -> None:
    """One node of all cores here: a Ray that is started for the call, one that runs already, and the scan alone."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as scratch:
        rows = {
            "threads": best(analyze(run, f"{scratch}/out"), repeats),
            "Ray, started for it": best(analyze(run, f"{scratch}/out", "--engine", "ray"), repeats),
        }
        node = {"num_cpus": cores, "object_store_memory": 200 << 20, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=node)
        try:
            address = ["--engine", "ray", "--ray-address", cluster.address]
            rows["Ray, running already"] = best(analyze(run, f"{scratch}/out", *address), repeats)
            trajectory = open_trajectory(run)
            alone = {"threads": min(timed(lambda: deque(scan(trajectory), maxlen=0)) for _ in range(repeats))}
            with open_engine("ray", cluster.address) as engine:
                deque(scan(trajectory, engine=engine), maxlen=0)  # its workers hold the kernels now
                alone["Ray, running already"] = min(
                    timed(lambda: deque(scan(trajectory, engine=engine), maxlen=0)) for _ in range(repeats)
                )
                workers = dict(engine.map(peak, range(8 * cores)))
        finally:
            cluster.shutdown()
    print()
    shown = [
        {
            "what": what,
            "seconds": seconds,
            "over_threads": seconds / rows["threads"][0],
            "peak_gib": memory,
            "scan": alone.get(what),
            "scan_over_threads": alone[what] / alone["threads"] if what in alone else None,
        }
        for what, (seconds, memory) in rows.items()
    ]
    Table("python benchmarks/scan.py --only ray", _RAY, shown).show("scan-ray", keep=False)
    print(f"peak of a Ray worker: {max(workers.values()):.2f} GiB ({len(workers)} workers)")


def memory(data: Path, billions: Sequence[float], *, keep: bool) -> list[Goal]:
    rows = []
    print("\nmemory as the model grows")
    for size in billions:
        grown = data / f"grown-{size}"
        needed = 7 * size * 1e9
        if not grown.exists() and shutil.disk_usage(data).free < needed:
            print(f"{size:8.3f} billion parameters: left out, {needed / 1e9:.0f} GB of disk are not free")
            continue
        count = generate(grown, size * 1e9, 3)
        with tempfile.TemporaryDirectory() as scratch:
            seconds, peak = measure(analyze(grown, f"{scratch}/out"))
        print(f"{count / 1e9:8.3f} billion parameters: {peak:.2f} GiB, {seconds:.1f} s", flush=True)
        rows.append({"billions": count / 1e9, "peak_gib": peak})
        shutil.rmtree(grown)
    Table("python benchmarks/scan.py --only memory", _MEMORY, rows).show("scan-memory", keep=keep)
    peaks = [row["peak_gib"] for row in rows]
    return [Goal("memory, most over least of all sizes", max(peaks) / min(peaks), most=1.1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS)
    parser.add_argument("--data", type=Path, default=Path("bench-data"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--keep", action="store_true", help="write the records that RESULTS.md is rendered from")
    arguments = parser.parse_args()
    arguments.data.mkdir(parents=True, exist_ok=True)
    if arguments.only != ["memory"]:
        size = 0.04e9 if arguments.small else 0.4e9
        run = arguments.data / f"run-{size:.0e}"
        parameters = generate(run, size, 8)
        files = sorted(map(str, run.glob("*/*.safetensors")))
        gigabytes = sum(os.path.getsize(file) for file in files) / 1e9
        print(
            f"{parameters / 1e9:.3f} billion parameters x 8 bf16 checkpoints, {gigabytes:.2f} GB, "
            f"{len(os.sched_getaffinity(0))} cores\n"
        )
    aimed: list[Goal] = []
    if "speed" in arguments.only:
        aimed += speed(run, files, gigabytes, arguments.repeats, keep=arguments.keep)
    if "lengths" in arguments.only:
        counts, values = ((3, 8, 20), 3e7) if arguments.small else ((3, 8, 20, 100, 500), 5e8)
        aimed += lengths(arguments.data, counts, values, arguments.repeats, keep=arguments.keep)
    if "disk" in arguments.only:
        aimed += disk(run, arguments.repeats, keep=arguments.keep)
    if "ray" in arguments.only:
        ray(run, arguments.repeats)
    if "memory" in arguments.only:
        aimed += memory(arguments.data, (0.02, 0.04) if arguments.small else (0.1, 0.4, 1.2, 3.0), keep=arguments.keep)
    if aimed:
        print()
        kept = arguments.keep and {"speed", "lengths", "disk"} <= set(arguments.only)
        goals("python benchmarks/scan.py", aimed).show("scan-goals", keep=kept)


if __name__ == "__main__":
    main()
