"""The contract of an engine, by threads; and by Ray on a real cluster of two nodes on this machine."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import walk_weights
from driftline import engines
from driftline._version import __version__
from driftline.checkpoints.trajectory import open_trajectory
from driftline.engines import LocalEngine, open_engine
from driftline.errors import InputError, UnreadableCheckpoint
from driftline.linearity import scan as scan_module
from driftline.linearity.scan import scan

MakeRun = Callable[..., Path]
SHAPES = {f"model.layers.{layer}.up.weight": (200, 150) for layer in range(6)} | {"model.norm.weight": (150,)}
STEPS = list(range(0, 80, 10))


@pytest.fixture
def run(make_run: MakeRun, rng: np.random.Generator) -> Path:
    return make_run(walk_weights(rng, STEPS, SHAPES, drift=0.3), "BF16")


# The local engine


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_the_items_order(threads: int) -> None:
    def late(item: int) -> int:
        time.sleep(0.002 * (item % 3))
        return item * item

    assert list(LocalEngine(threads).map(late, range(40))) == [item * item for item in range(40)]


def test_few_items_are_held_at_a_time() -> None:
    taken = itertools.count()
    results = LocalEngine(3).map(lambda item: item, (next(taken) for _ in range(1000)))
    assert next(results) == 0
    results.close()
    assert next(taken) == 6


def test_the_first_item_that_fails_is_the_one_that_is_told() -> None:
    def refuse(item: int) -> int:
        time.sleep(0.05 if item == 3 else 0)
        if item >= 3:
            raise InputError(f"item {item}")
        return item

    results = LocalEngine(4).map(refuse, range(10))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(InputError, match="item 3"):
        next(results)


def test_models_run_one_after_another_in_this_thread() -> None:
    bars: list[list[int]] = []

    def start(item: str) -> Callable[[int], None]:
        bars.append([])
        return bars[-1].append

    def model(item: str, advance: Callable[[int], None]) -> int:
        advance(len(item))
        return threading.get_ident()

    found = list(LocalEngine(4).map_models(model, ["a", "bb"], start))
    assert found == [("a", threading.get_ident()), ("bb", threading.get_ident())]
    assert bars == [[1], [2]]


def test_what_cannot_be_used_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*arguments: Any) -> None:
        with open_engine(*arguments):
            pass

    with pytest.raises(InputError, match="--engine 'spark' is unknown: choose local or ray"):
        opened("spark")
    with pytest.raises(InputError, match=r"--ray-address 10\.0\.0\.1:6379 belongs to --engine ray"):
        opened("local", "10.0.0.1:6379")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r'pip install "driftline\[ray\]"$'):
        opened("ray")


def test_the_command_line_refuses_an_unknown_engine_in_one_sentence(run: Path, tmp_path: Path) -> None:
    result = driftline(tmp_path, "analyze", run, "--out", "out", "--engine", "spark")
    assert (result.returncode, result.stderr) == (2, "driftline: --engine 'spark' is unknown: choose local or ray\n")
    assert not (tmp_path / "out").exists()


def driftline(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "driftline", *map(str, arguments), "--quiet"]  # no progress on standard error
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=500, check=False)


def test_small_items_share_a_task() -> None:
    sizes = [10, 30 << 20, 40 << 20, 1, 2, 100 << 20, 3]
    assert list(engines._batches(sizes, lambda size: size)) == [sizes[:3], sizes[3:6], sizes[6:]]
    assert list(engines._batches("abc", None)) == [["a"], ["b"], ["c"]]


def read_what_is_not_there(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableCheckpoint(f"{path} cannot be read ({error.strerror})") from error


def shared_with(caller: engines._Caller) -> bytes:
    return pickle.dumps((caller, read_what_is_not_there, None))


def test_a_task_does_what_the_function_does(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    caller = engines._Caller(__version__, os.getcwd(), "elsewhere")
    assert pickle.loads(engines._several(shared_with(caller), [tmp_path / "file"] * 2)) == [b"abc", b"abc"]


def test_a_node_that_does_not_see_the_files_is_named(tmp_path: Path) -> None:
    here = os.uname().nodename
    for machine, complaint in {
        "elsewhere": f"that is on node {here}: with --engine ray every node must",
        here: r"\)$",
    }.items():
        caller = engines._Caller(__version__, os.getcwd(), machine)
        with pytest.raises(InputError, match=complaint):
            engines._several(shared_with(caller), [tmp_path / "absent"])


def test_a_node_with_another_driftline_is_refused() -> None:
    caller = engines._Caller("0.0.1", os.getcwd(), "elsewhere")
    with pytest.raises(InputError, match=r"and this is 0\.0\.1: install the same on all"):
        engines._several(shared_with(caller), [Path()])


# The Ray engine, on two nodes of one core each


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 100 << 20}
    found = Cluster(initialize_head=True, head_node_args=small | {"include_dashboard": False})
    found.add_node(**small)
    yield found
    found.shutdown()


@pytest.mark.slow
def test_tasks_of_a_node_that_dies_run_again(cluster: Any, tmp_path: Path) -> None:
    def work(item: int) -> int:
        import ray

        with open(tmp_path / f"{item}.txt", "a") as file:  # a line for each time it is begun
            file.write(ray.get_runtime_context().get_node_id() + "\n")
        time.sleep(0.5)
        return item * item

    doomed = cluster.add_node(num_cpus=1, object_store_memory=100 << 20)

    def there() -> set[str]:
        return {file.name for file in tmp_path.iterdir() if doomed.node_id in file.read_text()}

    with open_engine("ray", cluster.address) as engine:
        results = engine.map(work, range(30))
        begun, before = [next(results) for _ in range(6)], there()
        while there() == before:  # until it has just begun another
            begun.append(next(results))
        cluster.remove_node(doomed, allow_graceful=False)
        assert begun + list(results) == [item * item for item in range(30)]
    begins = {item: (tmp_path / f"{item}.txt").read_text().split() for item in range(30)}
    assert len({node for nodes in begins.values() for node in nodes}) == 3
    assert any(len(nodes) > 1 and doomed.node_id == nodes[0] for nodes in begins.values())


@pytest.mark.slow
def test_errors_of_a_task_arrive_as_they_were_raised(cluster: Any) -> None:
    def refuse(item: int) -> int:
        if item == 3:
            raise UnreadableCheckpoint("file 3 is short")
        return item

    with open_engine("ray", cluster.address) as engine:
        results = engine.map(refuse, range(10), size=lambda item: 32 << 20)
        with pytest.raises(UnreadableCheckpoint, match=r"^file 3 is short$"):
            list(results)


@pytest.mark.slow
def test_the_scan_is_the_same_to_the_last_bit_with_a_node_killed_in_it(
    cluster: Any, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_module, "_CHUNK_BYTES", 1 << 16)
    monkeypatch.setattr(scan_module, "_ROW_BYTES", 1)
    monkeypatch.setattr(scan_module, "_STRETCH_BYTES", 1 << 17)
    monkeypatch.setattr(engines, "_TASK_BYTES", 1 << 18)
    trajectory = open_trajectory(run)
    assert len(list(scan_module._stretches(trajectory, 0))) > len(SHAPES)
    expected = list(scan(trajectory))
    doomed = cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    found = []
    with open_engine("ray", cluster.address) as engine:
        for tensor in scan(trajectory, engine=engine):
            found.append(tensor)
            if len(found) == 1:
                cluster.remove_node(doomed, allow_graceful=False)
    assert len(found) == len(expected) == len(SHAPES)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.name == theirs.name
        assert ours.populations[0].sum_r2 == theirs.populations[0].sum_r2
        np.testing.assert_array_equal(ours.populations[1].histogram, theirs.populations[1].histogram)
        np.testing.assert_array_equal(ours.gram, theirs.gram)
        np.testing.assert_array_equal(ours.along_start, theirs.along_start)
        np.testing.assert_array_equal(ours.sample, theirs.sample)
        np.testing.assert_array_equal(ours.positions, theirs.positions)


@pytest.mark.slow
def test_analyze_gives_the_same_files(cluster: Any, run: Path, tmp_path: Path) -> None:
    for name, options in {"local": [], "ray": ["--engine", "ray", "--ray-address", cluster.address]}.items():
        result = driftline(tmp_path, "analyze", "run", "--out", name, *options)
        assert (result.returncode, result.stderr) == (0, "")
    local, ray = (tmp_path / name for name in ("local", "ray"))
    assert (local / "tensors.parquet").read_bytes() == (ray / "tensors.parquet").read_bytes()
    summaries = [json.loads((folder / "summary.json").read_text()) | {"cost": None} for folder in (local, ray)]
    assert summaries[0] == summaries[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [["--method", "relex"], ["--method", "two-point", "--dtype", "float32", "--shard-size", "100KB"]]
)
def test_extrapolate_writes_the_same_models(cluster: Any, run: Path, tmp_path: Path, options: list[str]) -> None:
    ray = ["--engine", "ray", "--ray-address", cluster.address]
    for name, engine in {"local": [], "ray": ray}.items():
        result = driftline(tmp_path, "extrapolate", "run", "--to", "90,120", "--out", name, *options, *engine)
        assert (result.returncode, result.stderr) == (0, "")
    files = sorted(path.relative_to(tmp_path / "local") for path in (tmp_path / "local").rglob("*") if path.is_file())
    assert len(files) > 6
    for file in files:
        assert (tmp_path / "local" / file).read_bytes() == (tmp_path / "ray" / file).read_bytes(), file


@pytest.mark.slow
def test_a_bad_weight_is_told_in_the_same_sentence(
    cluster: Any, make_run: MakeRun, rng: np.random.Generator, tmp_path: Path
) -> None:
    weights = walk_weights(rng, STEPS, SHAPES)
    weights[20]["model.layers.3.up.weight"][7, 7] = np.nan
    make_run(weights, "BF16", run="broken")
    results = [
        driftline(tmp_path, "analyze", "broken", "--out", "out", *options)
        for options in ([], ["--engine", "ray", "--ray-address", cluster.address])
    ]
    assert results[0].returncode == results[1].returncode == 2
    assert results[0].stderr == results[1].stderr
    assert "tensor 'model.layers.3.up.weight' at step 20 holds a weight that is not finite" in results[0].stderr
    assert not (tmp_path / "out").exists()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Checkpoints of the lab's base, moved along one direction; and `rollouts.jsonl` beside them."""
    torch = pytest.importorskip("torch")
    from driftline.lab import model as lab_model

    model, tokenizer = lab_model.load(lab_model.shipped_base())
    torch.manual_seed(0)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    direction = {name: 1e-4 * torch.randn_like(value) for name, value in start.items()}
    for step in (0, 10, 20, 30):
        model.load_state_dict({name: start[name] + step * direction[name] for name in start})
        model.tie_weights()
        model.save_pretrained(tmp_path / "models" / f"checkpoint-{step}")
        tokenizer.save_pretrained(tmp_path / "models" / f"checkpoint-{step}")
    rows = [{"prompt": f"{a}+47+10=", "response": f"{a + 47};{a + 57}#{a + 57}"} for a in range(20, 30)]
    (tmp_path / "rollouts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "models"


@pytest.mark.slow
def test_log_probs_are_the_same(cluster: Any, models: Path, tmp_path: Path) -> None:
    for name, options in {"local": [], "ray": ["--engine", "ray", "--ray-address", cluster.address]}.items():
        result = driftline(tmp_path, "logprobs", "models", "--rollouts", "rollouts.jsonl", "--out", name, *options)
        assert (result.returncode, result.stderr) == (0, "")
    local, ray = (tmp_path / name for name in ("local", "ray"))
    for file in ("tokens.parquet", "sequences.parquet"):
        assert (local / file).read_bytes() == (ray / file).read_bytes()
    summaries = [json.loads((folder / "summary.json").read_text()) | {"cost": None} for folder in (local, ray)]
    assert summaries[0] == summaries[1]


@pytest.mark.slow
@pytest.mark.parametrize("space", [[], ["--output-space"]])
def test_a_sweep_chooses_the_same(cluster: Any, models: Path, tmp_path: Path, space: list[str]) -> None:
    asked = ["--to", "40,60", "--task", "sums", "--problems", "4", "--samples", "1", "--observed", "2", *space]
    for name, options in {"local": [], "ray": ["--engine", "ray", "--ray-address", cluster.address]}.items():
        result = driftline(tmp_path, "sweep", "models", *asked, "--out", name, *options)
        assert (result.returncode, result.stderr) == (0, "")
    records = [json.loads((tmp_path / name / "sweep.json").read_text()) | {"seconds": 0} for name in ("local", "ray")]
    assert records[0] == records[1]
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_an_address_where_nobody_answers_is_refused(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    result = driftline(tmp_path, "analyze", run, "--out", "out", "--engine", "ray", "--ray-address", "127.0.0.1:9")
    assert result.returncode == 2
    assert result.stderr.startswith("driftline: no Ray cluster can be used at 127.0.0.1:9 ([Errno 111]")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.slow
def test_without_an_address_ray_is_started_and_stopped(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    result = driftline(tmp_path, "analyze", run, "--out", "out", "--engine", "ray")
    assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / "out" / "summary.json").is_file()


@pytest.mark.slow
def test_stopped_it_leaves_nothing_and_its_own_exit_code(cluster: Any, run: Path, tmp_path: Path) -> None:
    words = ["analyze", "run", "--out", "out", "--engine", "ray", "--ray-address", cluster.address]
    process = subprocess.Popen([sys.executable, "-m", "driftline", *words], cwd=tmp_path)
    while not list(tmp_path.glob(".out.partial*")) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=100) == 143
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
