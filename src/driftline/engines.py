"""Where work runs: threads of this process, or a Ray cluster.

An engine maps a function over items and yields results in the items' order. The order is fixed so that sums over
results are the same to the last bit however many workers there are, and wherever they are. On a cluster a task gets
where the bytes lie (path, tensor, slice) and gives back small sums, or writes its own range of the output; weights
never travel. A task whose worker is lost runs again elsewhere, with the same result.

    with open_engine("ray", "10.0.0.1:6379") as engine:
        analyze(open_trajectory("/shared/run"), "out", engine=engine)
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, TypeVar

import numpy as np

from driftline._version import __version__
from driftline.errors import InputError, first_line
from driftline.progress import Advance

Item = TypeVar("Item")
Result = TypeVar("Result")

ENGINES = ("local", "ray")
_MOST_THREADS = 16  # bounds the memory of a pass, not only its speed
_TASK_BYTES = 64 << 20
_IN_FLIGHT = 3  # tasks for each core of a cluster: one at work, others on their way
_RETRIES = 5  # of a task whose worker or node is lost
_PATIENCE = 10.0  # seconds in which a cluster's address must answer
_OBJECT_STORE = 512 << 20  # bytes, of a Ray started here: results are small


class Engine(Protocol):
    """Where work runs."""

    def map(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        size: Callable[[Item], int] | None = None,
        settle: Callable[[list[Item]], None] | None = None,
    ) -> Generator[Result]:
        """`function` over `items`, a core for each, results in the items' order; few items are held at a time.

        Args:
            size: bytes of an item; where a task costs more than a call, small items share one.
            settle: called with the items of a task when they are done, where that is not in this process.

        Raises:
            Exception: what `function` raised for the first item that failed.
        """
        ...

    def map_models(
        self,
        function: Callable[[Item, Advance], Result],
        items: Iterable[Item],
        start: Callable[[Item], Advance],
    ) -> Iterator[tuple[Item, Result]]:
        """The same for work that needs a whole accelerator or machine: one after another here, one to a node there.

        Yields each item with its result as it is done, in any order.

        Args:
            function: is given what counts its progress too; start: opens an item's bar, and returns what advances it.
        """
        ...


def default_threads() -> int:
    """The cores this process may use, at most 16."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, _MOST_THREADS)


class Buffers(threading.local):
    """A worker's own memory, kept from one item to the next: fresh pages cost more than the work on them."""

    def __init__(self) -> None:
        self._held: dict[str, np.ndarray] = {}

    def get(self, name: str, nbytes: int) -> np.ndarray:
        """The buffer of that name, uint8 [nbytes], with whatever it held before."""
        held = self._held.get(name)
        if held is None or held.size < nbytes:
            held = self._held[name] = np.empty(nbytes, np.uint8)
        return held[:nbytes]


class LocalEngine:
    """Threads of this process; functions release the interpreter's lock where it matters."""

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or default_threads()

    def map(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        size: Callable[[Item], int] | None = None,
        settle: Callable[[list[Item]], None] | None = None,
    ) -> Generator[Result]:
        """At most two items a thread are in flight; `size` and `settle` play no part."""
        pending: deque[Future[Result]] = deque()
        with ThreadPoolExecutor(self.threads, thread_name_prefix="driftline") as pool:
            try:
                for item in items:
                    pending.append(pool.submit(function, item))
                    if len(pending) >= 2 * self.threads:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()

    def map_models(
        self,
        function: Callable[[Item, Advance], Result],
        items: Iterable[Item],
        start: Callable[[Item], Advance],
    ) -> Iterator[tuple[Item, Result]]:
        for item in items:
            yield item, function(item, start(item))


class RayEngine:
    """The cluster that `ray` is connected to. Its nodes see the same files under the same paths."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray

    def map(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        size: Callable[[Item], int] | None = None,
        settle: Callable[[list[Item]], None] | None = None,
    ) -> Generator[Result]:
        """A core for each task; at most three tasks a core are in flight."""
        task = self._task(_several, num_cpus=1)
        shared = self._shared(function, settle)
        most = _IN_FLIGHT * max(int(self._ray.cluster_resources().get("CPU", 1)), 1)
        pending: deque[Any] = deque()
        try:
            for batch in _batches(items, size):
                pending.append(task.remote(shared, batch))
                if len(pending) >= most:
                    yield from self._result(pending.popleft())
            while pending:
                yield from self._result(pending.popleft())
        finally:
            for ref in pending:
                self._ray.cancel(ref)

    def map_models(
        self,
        function: Callable[[Item, Advance], Result],
        items: Iterable[Item],
        start: Callable[[Item], Advance],
    ) -> Iterator[tuple[Item, Result]]:
        """An accelerator for each item, or all cores of a node where no node has one."""
        task = self._task(_one_model, **self._whole())
        shared = self._shared(function, None)
        pending = {task.remote(shared, item): item for item in items}
        try:
            while pending:
                (done,), _ = self._ray.wait(list(pending))
                item = pending.pop(done)
                result, amount = self._result(done)
                start(item)(amount)
                yield item, result
        finally:
            for ref in pending:
                self._ray.cancel(ref)

    def _task(self, function: Callable[..., bytes], **options: float) -> Any:
        return self._ray.remote(max_retries=_RETRIES, **options)(function)

    def _shared(self, *functions: Callable[..., Any] | None) -> Any:
        """What every task of a map needs, sent to each node once."""
        caller = _Caller(__version__, os.getcwd(), os.uname().nodename)
        return self._ray.put(self._ray.cloudpickle.dumps((caller, *functions)))

    def _whole(self) -> dict[str, float]:
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if any(node.get("GPU", 0) >= 1 for node in nodes):
            return {"num_gpus": 1}
        return {"num_cpus": min(cpus for node in nodes if (cpus := node.get("CPU", 0)) >= 1)}

    def _result(self, ref: Any) -> Any:
        errors = self._ray.exceptions
        try:
            return pickle.loads(self._ray.get(ref))  # what our own task made
        except errors.RayTaskError as error:
            raise error.cause from error
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError) as error:
            raise InputError(
                f"a task was lost with its worker {_RETRIES + 1} times on the Ray cluster ({type(error).__name__}): "
                "give its nodes more memory, or fewer cores each"
            ) from error


def _batches(items: Iterable[Item], size: Callable[[Item], int] | None) -> Iterator[list[Item]]:
    """Items in order, as many as make up a task of `_TASK_BYTES`; one by one where they have no size."""
    batch: list[Item] = []
    used = 0
    for item in items:
        batch.append(item)
        used += _TASK_BYTES if size is None else size(item)
        if used >= _TASK_BYTES:
            yield batch
            batch, used = [], 0
    if batch:
        yield batch


# Arguments and results travel as pickled bytes: arrays that Ray unpacks itself are read-only, for which the
# kernels would be compiled anew.


@dataclass(frozen=True)
class _Caller:
    """The process that tasks work for: its paths mean the same to them."""

    version: str
    folder: str
    machine: str


def _several(shared: bytes, items: list[Any]) -> bytes:
    """A task of `RayEngine.map`."""
    caller, function, settle = _unpacked(shared)
    with _missing_files_named(caller):
        results = [function(item) for item in items]
        if settle is not None:
            settle(items)
    return pickle.dumps(results)


def _one_model(shared: bytes, item: Any) -> bytes:
    """A task of `RayEngine.map_models`: the result, and by how much it advanced."""
    caller, function, _ = _unpacked(shared)
    amounts = [0]
    with _missing_files_named(caller):
        result = function(item, amounts.append)
    return pickle.dumps((result, sum(amounts)))


@lru_cache(maxsize=4)
def _unpacked(shared: bytes) -> tuple[_Caller, Callable[..., Any], Callable[..., Any] | None]:
    caller, function, settle = pickle.loads(shared)
    if caller.version != __version__:
        raise InputError(
            f"node {os.uname().nodename} of the Ray cluster has driftline {__version__}, and this is {caller.version}: install "
            "the same on all"
        )
    with suppress(OSError):
        os.chdir(caller.folder)
    return caller, function, settle


@contextmanager
def _missing_files_named(caller: _Caller) -> Iterator[None]:
    """A file that only the caller's machine has is named with the machine that lacks it."""
    try:
        yield
    except (InputError, FileNotFoundError) as error:
        here = os.uname().nodename
        if here == caller.machine or not any(isinstance(e, FileNotFoundError) for e in (error, error.__cause__)):
            raise
        raise InputError(
            f"{error}; that is on node {here}: with --engine ray every node must see the run and --out under the same paths: mount them so"
        ) from error


@contextmanager
def open_engine(name: str = "local", address: str | None = None) -> Iterator[Engine]:
    """The engine of that name, `local` or `ray`, for the time of the block.

    Args:
        address: of a Ray cluster. Without one: that of `RAY_ADDRESS`, else one that runs on this machine, else one
            that is started here and stopped when the block ends.

    Raises:
        InputError: an unknown name, an address without Ray, Ray is not installed, or no cluster answers.
    """
    if name not in ENGINES:
        raise InputError(f"--engine {name!r} is unknown: choose {' or '.join(ENGINES)}")
    if name == "local":
        if address is not None:
            raise InputError(f"--ray-address {address} belongs to --engine ray: add it, or leave the address out")
        yield LocalEngine()
        return
    try:
        import ray
    except ImportError as error:
        raise InputError('--engine ray needs Ray: pip install "driftline[ray]"') from error
    if ray.is_initialized():
        yield RayEngine(ray)
        return
    with _own_sigterm(lambda: _connect(ray, address)):
        try:
            if ray.cluster_resources().get("CPU", 0) < 1:
                raise InputError("the Ray cluster offers no CPU to run on: add a node to it with ray start --address")
            yield RayEngine(ray)
        finally:
            ray.shutdown()


def _connect(ray: Any, address: str | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what Ray will do anyway, and warns of
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    address = address or os.environ.get("RAY_ADDRESS")
    try:
        if address:
            _must_answer(address)
            ray.init(address, **quiet)
        else:
            try:
                ray.init("auto", **quiet)
            except ConnectionError:  # none runs here
                ray.init("local", include_dashboard=False, object_store_memory=_OBJECT_STORE, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        why = first_line(error).rstrip(".:")
        raise InputError(
            f"no Ray cluster can be used at {address or 'this machine'} ({why}): start one with ray start --head, or leave "
            "--ray-address out"
        ) from error


@contextmanager
def _own_sigterm(connect: Callable[[], None]) -> Iterator[None]:
    """The caller's handler of SIGTERM, and the exit code it chooses: Ray has its own handler, and its own code."""
    before = signal.getsignal(signal.SIGTERM)
    codes: list[Any] = []

    def handler(number: int, frame: Any) -> None:
        try:
            if callable(before):
                before(number, frame)
            sys.exit(128 + number)
        except SystemExit as stop:
            codes.append(stop.code)
            raise

    connect()
    here = threading.current_thread() is threading.main_thread()
    if here:
        signal.signal(signal.SIGTERM, handler)
    try:
        yield
    except SystemExit as stop:
        raise SystemExit(codes[0] if codes else stop.code) from None
    finally:
        if here:
            signal.signal(signal.SIGTERM, before)


def _must_answer(address: str) -> None:
    """Someone listens at HOST:PORT; Ray itself tries for minutes, and then ends the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
