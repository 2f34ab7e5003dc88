"""Small runs written by the safetensors library itself, in any dtype, as the trainers lay them out."""

from __future__ import annotations

import itertools
import json
import os
import resource
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import fsspec
import ml_dtypes
import numpy as np
import pytest
import safetensors
from hypothesis import HealthCheck, settings

from driftline.engines import default_threads
from driftline.files.record import record_text

NUMPY = {
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
}
_LIBRARY = {
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
}

Weights = Mapping[str, np.ndarray]

# How long an example takes is the machine's affair.
settings.register_profile("driftline", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("driftline")


# Two workers, where `pytest -n auto` asks for them and there are two cores; each keeps to its own, with all that it
# starts: the threads of two that share cores wait for each other, and take many times as long.


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    return 2 if default_threads() > 1 else 0


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Before a worker imports anything, since libraries count the cores then; not where a process cannot be kept to a core."""
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    count = min(node.workerinput["workercount"], len(cores))
    mine = cores[int(node.gateway.id.removeprefix("gw")) % count :: count]
    node.gateway.remote_exec(f"import os; os.sched_setaffinity(0, {mine})").waitclose()


# Every attack has a limit on time and memory, beside those that its test sets.
ATTACKS = Path(__file__).parent / "attacks"
ATTACK_SECONDS = 120  # of the clock, on a machine that does other work too
ATTACK_MEMORY = 4 << 30  # bytes of addresses beyond what the process has


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(ATTACKS) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(ATTACK_SECONDS))


@pytest.fixture(autouse=True)
def limited_memory(request: pytest.FixtureRequest) -> Iterator[None]:
    if not request.path.is_relative_to(ATTACKS):
        yield
        return
    limits = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + ATTACK_MEMORY, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


def save_tensors(path: Path, tensors: Weights, dtype: str = "F32") -> dict[str, np.ndarray]:
    """Write `tensors` in `dtype` (integers stay int64) and return what was stored, as float32."""
    stored = {
        name: np.ascontiguousarray(value)
        .reshape(np.shape(value))
        .astype(NUMPY["I64" if np.asarray(value).dtype.kind == "i" else dtype])
        for name, value in tensors.items()
    }
    entries = {
        name: safetensors.TensorSpec(
            dtype=_LIBRARY["I64" if value.dtype == np.int64 else dtype],
            shape=list(value.shape),
            data_ptr=value.ctypes.data,
            data_len=value.nbytes,
        )
        for name, value in stored.items()
    }
    safetensors.serialize_file(entries, str(path))
    return {name: value.astype(np.float32) for name, value in stored.items()}


def plain(record: Any) -> Any:
    """A record as the JSON of its file has it."""
    return json.loads(record_text(record))


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """make_run({step: {name: array}}, dtype="F32", name="checkpoint-{}") -> the run's folder."""

    def make(steps: Mapping[int, Weights], dtype: str = "F32", name: str = "checkpoint-{}", run: str = "run") -> Path:
        folder = tmp_path / run
        for step, tensors in steps.items():
            checkpoint = folder / name.format(step)
            checkpoint.mkdir(parents=True)
            save_tensors(checkpoint / "model.safetensors", tensors, dtype)
            (checkpoint / "config.json").write_text(json.dumps({"model_type": "test"}))
        return folder

    return make


@pytest.fixture
def upload() -> Iterator[Callable[[Path], str]]:
    """upload(folder) -> the address of a copy of it: fsspec's memory filesystem stands for an object store."""
    memory = fsspec.filesystem("memory")

    def put(folder: Path) -> str:
        memory.put(str(folder), f"/bucket/{folder.name}", recursive=True)
        return f"memory://bucket/{folder.name}"

    yield put
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def walk_weights(
    rng: np.random.Generator,
    steps: list[int],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    drift: float = 0.0,
    noise: float = 1e-3,
    start: str = "F32",
) -> dict[int, dict[str, np.ndarray]]:
    """Weights that walk with `noise` per step^(1/2) and drift by `drift` x noise per step, from N(0, .02) in dtype `start`."""
    current = {
        name: np.asarray(0.02 * rng.standard_normal(shape)).astype(NUMPY[start]).astype(np.float64)
        for name, shape in shapes.items()
    }
    direction = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    run = {steps[0]: {name: value.copy() for name, value in current.items()}}
    for before, after in itertools.pairwise(steps):
        gap = after - before
        for name, shape in shapes.items():
            step = np.sqrt(gap) * rng.standard_normal(shape) + gap * drift * direction[name]
            current[name] = current[name] + noise * step
        run[after] = {name: value.copy() for name, value in current.items()}
    return run


@pytest.fixture
def quiet_libraries() -> Iterator[None]:
    """What peft, transformers and torch have to say of each other is not what is tested."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"peft\.|transformers\.|torch\.")
        yield
