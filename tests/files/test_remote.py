"""Runs at remote addresses: fsspec's memory filesystem stands for object stores."""

from __future__ import annotations

import json
import pickle
import re
import sys
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import msgspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from remote_runs import STEPS, small_run

from driftline.checkpoints.inspection import inspect
from driftline.checkpoints.trajectory import open_trajectory
from driftline.errors import InputError
from driftline.files import remote
from driftline.files.output import refuse_occupied
from driftline.forecast.backtest import measure
from driftline.forecast.observations import observe
from driftline.forecast.request import ForecastRequest
from driftline.linearity import scan as scanning
from driftline.linearity.analysis import analyze
from driftline.watching.request import Following
from driftline.watching.watch import watch
from driftline.writing.extrapolate import extrapolate

MakeRun = Callable[..., Path]
Upload = Callable[[Path], str]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_WAITS", (0.0, 0.0, 0.0))


@pytest.fixture
def run(make_run: MakeRun, rng: np.random.Generator) -> Path:
    return small_run(make_run, rng)


def without(record: Any, *keys: str) -> dict[str, Any]:
    return {key: value for key, value in msgspec.to_builtins(record).items() if key not in keys}


def test_inspection_is_that_of_a_local_copy(run: Path, upload: Upload) -> None:
    address = upload(run)
    here, there = inspect(open_trajectory(run)), inspect(open_trajectory(address))
    assert without(here, "run", "checkpoints") == without(there, "run", "checkpoints")
    assert there["run"] == address
    assert [row["path"] for row in there["checkpoints"]] == [f"{address}/checkpoint-{step}" for step in STEPS]


@pytest.mark.parametrize("chunk", [8 << 20, 4 * 1024 * 2 * 3])
def test_analysis_is_that_of_a_local_copy_to_the_last_bit(
    run: Path, upload: Upload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(scanning, "_CHUNK_BYTES", chunk)
    monkeypatch.setattr(scanning, "_ROW_BYTES", 1)
    records = [analyze(open_trajectory(source), tmp_path, clock="lr") for source in (str(run), upload(run))]
    assert records[1]["optimizer"]["adam_beta1_from"] == "run.json"
    assert without(records[0], "run", "cost") == without(records[1], "run", "cost")


def test_pairs_and_base_may_be_remote(run: Path, upload: Upload) -> None:
    address = upload(run)
    pairs = [f"{step}={address}/checkpoint-{step}" for step in STEPS[2:]]
    mixed = open_trajectory([f"10={run / 'checkpoint-10'}", *pairs], base=f"{address}/checkpoint-0")
    assert mixed.steps == tuple(STEPS)
    tensors = [tensor.gram for tensor in scanning.scan(mixed)]
    for found, expected in zip(tensors, scanning.scan(open_trajectory(run)), strict=True):
        np.testing.assert_array_equal(found, expected.gram)


def test_a_tensor_travels_to_another_process(run: Path, upload: Upload) -> None:
    tensor = open_trajectory(upload(run))["model.b.weight"]
    there = pickle.loads(pickle.dumps(tensor))
    assert there == tensor
    np.testing.assert_array_equal(
        there.stored[-1].values(0, 100), open_trajectory(run)[tensor.name].stored[-1].values(0, 100)
    )


def test_jumps_are_found(run: Path, upload: Upload) -> None:
    jump = {
        "cycle": 1,
        "trained_from": 0,
        "trained_to": 20,
        "projected_to": 50,
        "alpha": 2.5,
        "accepted": True,
        "step": 20,
    }
    (run / "jumps.json").write_text(json.dumps([jump]))
    jumps = open_trajectory(upload(run)).regrounded
    assert jumps is not None
    assert jumps.virtual == {0: 0, 10: 10, 20: 50, 30: 60}


def test_what_is_not_there_is_said(run: Path, upload: Upload) -> None:
    address = upload(run)
    with pytest.raises(InputError, match="memory://bucket/none does not exist"):
        open_trajectory("memory://bucket/none")
    with pytest.raises(InputError, match="is one checkpoint, not a run: give its parent folder memory://bucket/run"):
        open_trajectory(f"{address}/checkpoint-10")
    with pytest.raises(InputError, match=r"nosuch://bucket/run cannot be opened .*not known: nosuch"):
        open_trajectory("nosuch://bucket/run")
    with pytest.raises(InputError, match="give that of the base model, or its address"):
        open_trajectory([f"10={address}/checkpoint-10"], base="memory://bucket/none")


class Requests(list[tuple[str, str, int]]):
    """(kind, path, bytes) of every request that the memory filesystem answers; `failures` fail before one succeeds."""

    failures = 0
    error: Exception = ConnectionError("reset by peer")


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Requests:
    seen, info, cat_file = Requests(), MemoryFileSystem.info, MemoryFileSystem.cat_file

    def counted_info(self: Any, path: str, **kwargs: Any) -> Any:
        seen.append(("info", path, 0))
        return info(self, path, **kwargs)

    def counted_cat(self: Any, path: str, start: Any = None, end: Any = None, **kwargs: Any) -> Any:
        if seen.failures:
            seen.failures -= 1
            raise seen.error
        found = cat_file(self, path, start=start, end=end)
        seen.append(("range", path, len(found)))
        return found

    monkeypatch.setattr(MemoryFileSystem, "info", counted_info)
    monkeypatch.setattr(MemoryFileSystem, "cat_file", counted_cat)
    return seen


def test_a_header_is_two_ranges_and_a_tensor_one(run: Path, upload: Upload, requests: Requests) -> None:
    address = upload(run)
    trajectory = open_trajectory(address)
    ranges = [(path, count) for kind, path, count in requests if kind == "range"]
    header = (run / "checkpoint-0" / "model.safetensors").read_bytes()[:8]
    length = int.from_bytes(header, "little")
    files = [f"/bucket/run/checkpoint-{step}/model.safetensors" for step in STEPS]
    assert ranges == [(file, count) for file in files for count in (8, length)]
    requests.clear()
    scanned = list(scanning.scan(trajectory))
    sizes = [2 * tensor.size for tensor in scanned]
    assert sorted(requests) == sorted(("range", file, size) for file in files for size in sizes)


def test_failures_in_the_middle_are_tried_again_then_named(run: Path, upload: Upload, requests: Requests) -> None:
    trajectory = open_trajectory(upload(run)).only(STEPS[:3])
    requests.failures = 3
    assert len(list(scanning.scan(trajectory))) == 3
    requests.failures = 1000
    broken = r"memory://bucket/run/checkpoint-\d+/model.safetensors cannot be read \(reset by peer\), at tensor 'model.a.weight'"
    with pytest.raises(InputError, match=broken):
        list(scanning.scan(trajectory))
    assert requests.failures > 900  # a few, not endlessly


def test_objects_that_change_are_named(run: Path, upload: Upload, requests: Requests) -> None:
    trajectory = open_trajectory(upload(run))
    file = "/bucket/run/checkpoint-20/model.safetensors"
    memory = fsspec.filesystem("memory")
    memory.pipe_file(file, memory.cat_file(file)[:2000])
    shorter = r"checkpoint-20/model.safetensors became shorter while 'model.\w+.weight' was read"
    with pytest.raises(InputError, match=shorter):
        list(scanning.scan(trajectory))
    requests.error, requests.failures = OSError("416: range not satisfiable"), 10**6
    with pytest.raises(InputError, match=shorter):
        trajectory["model.b.weight"].stored[2].values(0, 4096)
    requests.failures = 0
    memory.rm(file)
    with pytest.raises(InputError, match=r"checkpoint-20/model.safetensors cannot be read \(No such file"):
        list(scanning.scan(trajectory))


def test_an_unfinished_checkpoint_is_skipped(run: Path, upload: Upload) -> None:
    address = upload(run)
    memory = fsspec.filesystem("memory")
    for step, kept in ((10, 5), (20, 300)):
        file = f"/bucket/run/checkpoint-{step}/model.safetensors"
        memory.pipe_file(file, memory.cat_file(file)[:kept])
    skipped = open_trajectory(address).skipped
    assert "is only 5 bytes: still being written" in skipped[10]
    assert "still being written, or truncated" in skipped[20]


def test_a_server_without_ranges_is_refused(run: Path, upload: Upload, monkeypatch: pytest.MonkeyPatch) -> None:
    address = upload(run)
    whole = MemoryFileSystem.cat_file
    monkeypatch.setattr(MemoryFileSystem, "cat_file", lambda self, path, **rest: whole(self, path))
    with pytest.raises(InputError, match="sends whole files where a range is asked for"):
        open_trajectory(address)


class _Server(SimpleHTTPRequestHandler):
    """Files with ranges, which the standard library's lacks, for one user."""

    def do_GET(self) -> None:
        if self.headers["Authorization"] != "Basic " + b64encode(b"me:s3cr@t").decode():
            self.send_error(401)
        elif bounds := re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            found = Path(self.translate_path(self.path)).read_bytes()[int(bounds[1]) : int(bounds[2]) + 1]
            self.send_response(206)
            self.send_header("Content-Length", str(len(found)))
            self.end_headers()
            self.wfile.write(found)
        else:
            super().do_GET()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def served(run: Path) -> Iterator[str]:
    """The address of a server of the run, without its user and password."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Server, directory=str(run.parent))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}/run"
        server.shutdown()
        thread.join()


def test_a_server_with_a_password_is_read_and_the_password_is_nowhere(
    run: Path, served: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"http://me:s3cr%40t@{served}"
    summary = analyze(open_trajectory(address), tmp_path)
    assert without(summary, "run", "cost") == without(analyze(open_trajectory(run), tmp_path), "run", "cost")
    assert summary["run"] == f"http://{served}"
    extrapolate(open_trajectory(address), tmp_path / "out", ForecastRequest((50,)))
    recipe = (tmp_path / "out" / "driftline.json").read_text()
    assert served in recipe
    assert "s3cr" not in recipe
    with pytest.raises(InputError, match=f"http://{served}/none") as refused:
        open_trajectory(f"{address}/none")
    assert "s3cr" not in str(refused.value)
    with pytest.raises(InputError, match="401"):
        open_trajectory(f"http://{served}")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://key:secret@bucket/run is not", "s3://bucket/run is not"),
        ("--base=https://token@host/a b", "--base=https://host/a b"),
        ("1=ftp://u:p:@x@host/a", "1=ftp://host/a"),
        ("abfs://container@account.dfs.core.windows.net/a", "abfs://container@account.dfs.core.windows.net/a"),
        ("hf://owner/name@main/a:b", "hf://owner/name@main/a:b"),
        ("sftp://token@host/a", "sftp://host/a"),
        ("0s3://key:secret@bucket", "0s3://bucket"),
        ("two: s3://a:b@c/d and http://e@f/g", "two: s3://c/d and http://f/g"),
        ("no address: //a:b@c", "no address: //a:b@c"),
    ],
)
def test_credentials_are_taken_out_of_text(text: str, shown: str) -> None:
    assert remote.redacted(text) == shown


@pytest.mark.timeout(20)
@pytest.mark.parametrize("piece", ["a", "a:", "://", "s3://", "s3://:", "@", "s3://:@"])
def test_long_text_is_searched_in_one_pass(piece: str) -> None:
    text = f"s3://key:secret@bucket/ {piece * 200_000}"
    assert remote.redacted(text).startswith("s3://bucket/ ")


def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(InputError, match="s3://bucket/run needs s3fs, which is not installed: pip install s3fs"):
        open_trajectory("s3://bucket/run")


def test_forecasts_are_the_bytes_that_a_local_copy_gives(run: Path, upload: Upload, tmp_path: Path) -> None:
    (run / "checkpoint-30" / "tokenizer.json").write_text('{"version": "1.0"}')
    (run / "checkpoint-30" / "optimizer.bin").write_bytes(b"not for a forecast")
    written = {}
    for name, source in (("here", str(run)), ("there", upload(run))):
        extrapolate(open_trajectory(source), tmp_path / name, ForecastRequest((50,), method="least-squares"))
        written[name] = {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()}
    assert written["here"].keys() == written["there"].keys() >= {"tokenizer.json", "config.json", "model.safetensors"}
    recipes = [json.loads(written[name].pop("driftline.json")) for name in ("here", "there")]
    assert written["here"] == written["there"]
    for mine, remote_one in zip(*(recipe.pop("sources") for recipe in recipes), strict=True):
        assert (mine["step"], mine["bytes"]) == (remote_one["step"], remote_one["bytes"])
        assert remote_one["file"].startswith("memory://bucket/run/checkpoint-")
        assert len(remote_one["fingerprint"]) == 64
    assert recipes[0] == recipes[1]


def test_backtests_are_those_of_a_local_copy(run: Path, upload: Upload, tmp_path: Path) -> None:
    records = []
    for name, source in (("here", str(run)), ("there", upload(run))):
        (tmp_path / name).mkdir()
        observed = observe(open_trajectory(source), clock="step")
        records.append(measure(observed, run="run", clock="step")[0])
    assert without(records[0], "cost") == without(records[1], "cost")


@pytest.mark.parametrize("out", ["s3://bucket/out", "memory://bucket/out"])
def test_results_are_not_written_to_addresses(run: Path, tmp_path: Path, out: str) -> None:
    with pytest.raises(InputError, match=f"--out {out} is a remote address: give a local folder"):
        extrapolate(open_trajectory(run), out, ForecastRequest((50,)))
    with pytest.raises(InputError, match=f"--out {out} is a remote address: give a local folder"):
        refuse_occupied(Path(out), overwrite=True, mark="summary.json")


@pytest.mark.parametrize("arguments", [("s3://u:key@bucket/run",), ("1=s3://u:key@bucket/a", "2=/b")])
def test_watch_refuses_addresses(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=r"s3://bucket/\w+ is a remote address, which watch does not follow"):
        watch(Following(arguments), tmp_path / "out", show=print, say=print)
    assert not (tmp_path / "out").exists()
