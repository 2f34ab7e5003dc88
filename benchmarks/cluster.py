"""What a run costs on a cluster: a small model of the wall clock, its rates measured here, checked here, then scaled.

    python benchmarks/cluster.py              calibrates, checks, and tells the cost of 70 billion parameters x 20
    python benchmarks/cluster.py --small      a run of 20 million, to see that it works
    python benchmarks/cluster.py --cores 96 --link 25 --storage 100      for another cluster
    python benchmarks/cluster.py --no-check   calibration and table only, without starting Ray

    wall clock = start + max(storage, compute, driver)

    storage   bytes read / min(nodes x link, aggregate), plus bytes written / the same
    compute   core seconds of all tasks and of the driver / cores
    driver    seconds of the one process that hands out tasks and adds up what comes back

Core seconds are CPU time, which other work on this machine does not disturb much; the check is wall clock, and wants
an idle machine. Files lie in the page cache, so storage plays no part in the check.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from driftline import open_trajectory, scan
from driftline._version import __version__
from driftline.checkpoints.trajectory import Trajectory
from driftline.engines import Engine, LocalEngine, open_engine
from driftline.forecast.forecast import Forecast, Origin
from driftline.writing.storage import Storage
from driftline.writing.write import write
from generate import generate, shapes
from tables import Column, Table

ITEM = {"analyze": 128 << 20, "extrapolate": 1 << 20}  # bytes at a time: of all checkpoints together, and of each
TENSORS = 723  # of a Llama of 70 billion parameters: 80 layers x 9, embeddings, head, last norm
_COMMAND = {"key": "command", "title": ""}
_MEASURED = (
    _COMMAND,
    {"key": "engine", "title": "engine"},
    {"key": "predicted", "title": "predicted s", "decimals": 2},
    {"key": "measured", "title": "measured s", "decimals": 2},
    {"key": "ratio", "title": "measured / predicted", "decimals": 2},
)
_RATES = (
    _COMMAND,
    {"key": "rate", "title": "GB/s a core", "decimals": 2},
    {"key": "item_ms", "title": "driver: ms an item", "decimals": 2},
    {"key": "tensor_ms", "title": "ms a tensor", "decimals": 2},
)
_PREDICTED: tuple[Column, ...] = (
    _COMMAND,
    {"key": "nodes", "title": "nodes"},
    {"key": "fetched", "title": "TB fetched", "decimals": 2},
    {"key": "written", "title": "TB written", "decimals": 2},
    *({"key": part, "title": f"{part} s", "decimals": 0} for part in ("storage", "compute", "driver", "wall")),
)


@dataclass(frozen=True)
class Rates:
    """What one core does, and what the driver does."""

    work: float  # core seconds for each byte read
    chunk: float  # seconds of the driver for each chunk
    tensor: float  # and for each tensor
    start: float  # seconds before the first result

    def driver(self, chunks: float, tensors: float) -> float:
        return chunks * self.chunk + tensors * self.tensor


@dataclass(frozen=True)
class Cluster:
    """Nodes that see one file system; bandwidths in bytes a second."""

    nodes: int
    cores: int
    link: float = math.inf
    storage: float = math.inf


@dataclass(frozen=True)
class Job:
    """What a command reads and writes, in bytes, and in how many chunks it does so."""

    read: float
    written: float
    chunks: float
    tensors: float
    fetched: float  # from storage: where files are hashed by other nodes than read their slices, twice `read`


def job(command: str, parameters: float, checkpoints: int, tensors: float, nodes: int) -> Job:
    """Of `analyze` over all checkpoints, or of a two-point `extrapolate`; bfloat16 in and out."""
    rows = checkpoints if command == "analyze" else 2
    read = 2 * parameters * rows
    chunks = read / ITEM[command] if command == "analyze" else 2 * parameters / ITEM[command]
    written = 0.0 if command == "analyze" else 2 * parameters
    again = 2 if command == "extrapolate" and nodes > 1 else 1
    return Job(read, written, chunks + tensors, tensors, again * read)


def seconds(job: Job, rates: Rates, cluster: Cluster) -> dict[str, float]:
    """The parts of the wall clock, and it."""
    bandwidth = min(cluster.nodes * cluster.link, cluster.storage)
    driver = rates.driver(job.chunks, job.tensors)
    parts = {
        "storage": (job.fetched + job.written) / bandwidth,
        "compute": (job.read * rates.work + driver) / (cluster.nodes * cluster.cores),
        "driver": driver,
    }
    return parts | {"wall": rates.start + max(parts.values())}


class Metered:
    """Runs everything in the calling thread, and counts what the functions take of it."""

    def __init__(self) -> None:
        self.work = 0.0
        self.calls = 0

    def map(self, function: Callable[[Any], Any], items: Iterable[Any], **options: Any) -> Generator[Any]:
        for item in items:
            began = time.thread_time()
            result = function(item)
            self.work += time.thread_time() - began
            self.calls += 1
            yield result

    def map_models(
        self, function: Callable[..., Any], items: Iterable[Any], start: Callable[..., Any]
    ) -> Iterator[Any]:
        raise NotImplementedError


@contextmanager
def scratch(data: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir=data))
    yield folder
    shutil.rmtree(folder)


def run_once(command: str, run: Trajectory, engine: Engine, data: Path) -> None:
    """The weights' part of a command."""
    if command == "analyze":
        deque(scan(run, engine=engine), maxlen=0)
        return
    pair = run.only([run.steps[0], run.steps[-1]])
    with scratch(data) as folder:
        origin = Origin(driftline=__version__, target=1, method="two-point", observed=list(pair.steps))
        forecast = Forecast({t.name: np.array([-0.5, 1.5]) for t in pair}, origin)
        write(pair, {folder: forecast}, Storage(keep=()), engine=engine)


def calibrate(command: str, large: Trajectory, tiny: Trajectory, data: Path) -> Rates:
    """Rates of one core on a large run, and of the driver without Ray, on a tiny run whose tensors are one chunk each."""
    run_once(command, tiny, LocalEngine(1), data)  # kernels are loaded
    meters = []
    for run in (tiny, large):
        meter, began = Metered(), time.thread_time()
        run_once(command, run, meter, data)
        meters.append((meter, time.thread_time() - began - meter.work))
    (_, serial), (meter, _) = meters
    asked = job(command, large.parameters, len(large.steps), len(large.tensors), 1)
    return Rates(meter.work / asked.read, 0.0, serial / len(tiny.tensors), 0.0)


def ray_driver(command: str, rates: Rates, run: Trajectory, engine: Engine, data: Path) -> Rates:
    """The same, with what the driver takes for each chunk that goes through Ray."""
    run_once(command, run, engine, data)  # workers have started and hold the kernels
    began = time.process_time()
    run_once(command, run, engine, data)
    spent = time.process_time() - began
    asked = job(command, run.parameters, len(run.steps), len(run.tensors), 1)
    return replace(rates, chunk=max(spent - rates.driver(0, asked.tensors), 0.0) / asked.chunks)


def wall(work: Callable[[], object], repeats: int) -> float:
    best = math.inf
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return best


def check(rates: dict[str, Rates], run: Trajectory, data: Path, repeats: int, *, keep: bool) -> dict[str, Rates]:
    """Predicted beside measured on real clusters of one and two nodes on this machine, a core each."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster as Nodes

    here = len(os.sched_getaffinity(0))
    node = {"num_cpus": 1, "object_store_memory": 200 << 20}
    print(
        f"\nthe model against measurements: {run.nbytes / 1e9:.2f} GB in the page cache, {here} cores, one for each node"
    )
    rows: list[dict[str, Any]] = []

    def add(command: str, engine: str, predicted: float, measured: float) -> None:
        figures = {"predicted": predicted, "measured": measured, "ratio": measured / predicted}
        rows.append({"command": f"`{command}`", "engine": engine} | figures)

    cluster = Nodes(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    try:
        for nodes in (1, 2):
            if nodes == 2:
                cluster.add_node(**node)
            with open_engine("ray", cluster.address) as engine:
                for command, found in rates.items():
                    measured_rates = ray_driver(command, found, run, engine, data)
                    if nodes == 1:
                        rates = rates | {command: measured_rates}
                    asked = job(command, run.parameters, len(run.steps), len(run.tensors), 1)
                    # the driver has no core of its own here
                    predicted = max(
                        seconds(asked, measured_rates, Cluster(nodes, 1))["wall"],
                        (asked.read * found.work + measured_rates.driver(asked.chunks, asked.tensors)) / here,
                    )
                    measured = wall(lambda c=command, e=engine: run_once(c, run, e, data), repeats)  # type: ignore[misc]
                    add(command, f"Ray, {nodes} node{'s' * (nodes > 1)}", predicted, measured)
        for threads in sorted({1, here}):
            for command, found in rates.items():
                asked = job(command, run.parameters, len(run.steps), len(run.tensors), 1)
                predicted = seconds(asked, replace(found, chunk=0.0), Cluster(1, threads))["wall"]
                measured = wall(lambda c=command, n=threads: run_once(c, run, LocalEngine(n), data), repeats)  # type: ignore[misc]
                add(command, f"{threads} thread{'s' * (threads > 1)}", predicted, measured)
    finally:
        cluster.shutdown()
    Table("python benchmarks/cluster.py", _MEASURED, rows).show("cluster-measured", keep=keep)
    return rates


def table(rates: dict[str, Rates], arguments: argparse.Namespace) -> None:
    parameters, checkpoints = arguments.parameters, arguments.checkpoints
    print(
        f"\n{parameters / 1e9:g} billion parameters x {checkpoints} bf16 checkpoints, {2 * parameters * checkpoints / 1e12:.2f} TB; "
        f"nodes of {arguments.cores} cores and {arguments.link:g} GB/s, storage of {arguments.storage:g} GB/s in all"
    )
    rows: list[dict[str, Any]] = []
    for command, found in rates.items():
        for nodes in arguments.nodes:
            asked = job(command, parameters, checkpoints, TENSORS, nodes)
            cluster = Cluster(nodes, arguments.cores, arguments.link * 1e9, arguments.storage * 1e9)
            parts = seconds(asked, replace(found, start=arguments.start), cluster)
            moved = {"fetched": asked.fetched / 1e12, "written": asked.written / 1e12 or None}
            rows.append({"command": f"`{command}`", "nodes": nodes} | moved | parts)
    Table("python benchmarks/cluster.py", _PREDICTED, rows).show("cluster-predicted", keep=arguments.keep)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--no-check", action="store_true")
    parser.add_argument("--keep", action="store_true", help="write the records that RESULTS.md is rendered from")
    parser.add_argument("--data", type=Path, default=Path("bench-data"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parameters", type=float, default=70e9)
    parser.add_argument("--checkpoints", type=int, default=20)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--cores", type=int, default=64, help="of each node")
    parser.add_argument("--link", type=float, default=10.0, help="GB/s that one node gets from storage")
    parser.add_argument("--storage", type=float, default=40.0, help="GB/s that all nodes together get")
    parser.add_argument(
        "--start", type=float, default=15.0, help="seconds until workers have started, and for the page"
    )
    arguments = parser.parse_args()
    size = 0.02e9 if arguments.small else 0.1e9
    run = arguments.data / f"run-{size:.0e}x{arguments.checkpoints}"
    generate(run, size, arguments.checkpoints)
    generate(arguments.data / "tiny", 0.0, arguments.checkpoints)  # the narrowest model
    large, tiny = open_trajectory(run), open_trajectory(arguments.data / "tiny")
    rates = {command: calibrate(command, large, tiny, arguments.data) for command in ITEM}
    if not arguments.no_check:
        rates = check(rates, large, arguments.data, arguments.repeats, keep=arguments.keep)
    print(f"\nthe rates of one core, and of the driver ({len(shapes(size))} tensors)")
    rows = [
        {
            "command": f"`{command}`",
            "rate": 1e-9 / found.work,
            "item_ms": 1e3 * found.chunk,
            "tensor_ms": 1e3 * found.tensor,
        }
        for command, found in rates.items()
    ]
    Table("python benchmarks/cluster.py", _RATES, rows).show("cluster-rates", keep=arguments.keep)
    table(rates, arguments)


if __name__ == "__main__":
    main()
