"""What goes wrong with runs in the wild: each fault is named in one sentence, or skipped with its reason.

Beside the faults in `test_safetensors_file.py`, `test_trajectory.py` and `linearity/test_scan.py`; those of a run
that is being written are in `linearity/test_watch.py`.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import save_tensors, walk_weights
from driftline.checkpoints.configuration import learning_rates
from driftline.checkpoints.discovery import find_steps
from driftline.checkpoints.inspection import inspect
from driftline.checkpoints.safetensors_file import read_header
from driftline.checkpoints.trajectory import open_trajectory
from driftline.errors import InputError, UnreadableCheckpoint
from driftline.linearity.scan import scan

MakeRun = Callable[..., Path]
SHAPES = {"up.weight": (40, 30), "norm.weight": (30,)}


@pytest.fixture
def run(make_run: MakeRun, rng: np.random.Generator) -> Path:
    return make_run(walk_weights(rng, [0, 10, 20, 30], SHAPES, drift=0.1))


def weights_file(run: Path, step: int) -> Path:
    return run / f"checkpoint-{step}" / "model.safetensors"


def test_missing_steps_and_uneven_spacing_are_measured_at_their_real_steps(
    make_run: MakeRun, rng: np.random.Generator
) -> None:
    """An exact line stays one when checkpoints of it are missing, however they lie."""
    start, direction = rng.standard_normal((2, 500))
    run = make_run({step: {"w": start + step * direction} for step in (0, 10, 20, 50, 55, 400)})
    (tensor,) = scan(open_trajectory(run))
    assert tensor.population().mean_r2 == pytest.approx(1.0, abs=1e-6)
    assert any("uneven spacing, 5 to 345 steps" in note for note in inspect(open_trajectory(run))["problems"])


@pytest.mark.parametrize("where", ["header", "data"])
def test_a_flipped_byte_never_ends_in_anything_but_a_sentence(run: Path, where: str) -> None:
    """In the header every byte, one bit at a time; in the data what becomes of the number decides."""
    file, folder = weights_file(run, 20), run / "checkpoint-20"
    whole = bytearray(file.read_bytes())
    data = 8 + int.from_bytes(whole[:8], "little")
    known = read_header(file)
    for position in range(0, data) if where == "header" else range(data, len(whole), 97):
        damaged = whole.copy()
        damaged[position] ^= 1 << (position % 8)
        file.write_bytes(damaged)
        trajectory = open_trajectory(run)
        if 20 in trajectory.skipped:
            assert str(folder) in trajectory.skipped[20]
            assert where == "header"
        elif where == "header":  # names and dtypes may still spell something
            assert {t.nbytes for t in read_header(file).values()} == {t.nbytes for t in known.values()}
        else:
            try:
                assert all(np.isfinite(tensor.gram).all() for tensor in scan(trajectory))
            except InputError as error:
                assert "not finite" in str(error) or "more than float32 can hold" in str(error)  # noqa: PT017


def test_two_attempts_with_overlapping_steps_are_told_apart_by_pairs(
    make_run: MakeRun, rng: np.random.Generator
) -> None:
    """Steps 10 and 20 of a first attempt, 20 and 30 of a second, in one folder under two names, and in two folders."""
    weights = walk_weights(rng, [10, 20, 30], SHAPES)
    first = make_run({step: weights[step] for step in (10, 20)}, run="first")
    second = make_run({step: weights[step] for step in (20, 30)}, name="global_step_{}", run="second")
    for folder in list(second.iterdir()):
        shutil.copytree(folder, first / folder.name)
    with pytest.raises(InputError, match="both hold step 20: name the one to use as 20=PATH"):
        open_trajectory(first)
    pairs = [f"10={first / 'checkpoint-10'}", f"20={second / 'global_step_20'}", f"30={second / 'global_step_30'}"]
    assert open_trajectory(pairs).steps == (10, 20, 30)
    with pytest.raises(InputError, match="both hold step 20"):
        open_trajectory([*pairs, f"20={first / 'checkpoint-20'}"])


def test_names_with_dots_and_slashes_are_only_names(
    make_run: MakeRun, rng: np.random.Generator, tmp_path: Path
) -> None:
    names = {"../../escape": (20,), "/etc/passwd": (20,), "a/../../b": (20,), "": (20,), "nul\0": (20,), "新": (20,)}
    run = make_run(walk_weights(rng, [0, 10, 20], names))
    before = sorted(tmp_path.rglob("*"))
    assert {tensor.name for tensor in scan(open_trajectory(run))} == set(names)
    assert sorted(tmp_path.rglob("*")) == before


def test_names_that_are_no_text_are_damage(tmp_path: Path) -> None:
    text = b'{"\\ud800": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 4)
    with pytest.raises(UnreadableCheckpoint, match="damaged header"):
        read_header(path)


def test_symlink_loops_do_not_hold_up_anything(run: Path) -> None:
    (run / "checkpoint-40").symlink_to(run)
    (run / "checkpoint-50").symlink_to(run / "checkpoint-50")
    (run / "checkpoint-60").mkdir()
    (run / "checkpoint-60" / "model.safetensors").symlink_to(run / "checkpoint-60" / "model.safetensors")
    trajectory = open_trajectory(run)
    assert trajectory.steps == (0, 10, 20, 30)
    assert trajectory.skipped.keys() == {40, 60}  # 50 leads to no folder
    assert "no weights" in trajectory.skipped[40]


def test_special_files_are_not_opened(run: Path) -> None:
    """A pipe would wait for ever, a device has no end."""
    weights_file(run, 20).unlink()
    os.mkfifo(weights_file(run, 20))
    weights_file(run, 30).unlink()
    weights_file(run, 30).symlink_to("/dev/zero")
    trajectory = open_trajectory(run)
    assert trajectory.steps == (0, 10)
    assert all("holds no weights yet" in reason for reason in trajectory.skipped.values())


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"[" + b"[]," * 1_100_000 + b"[]]", "more than 2,000,000 items"),
        (b'{"a":' * 100_000, "damaged header"),
        (b'{"a": {"dtype": "F32", "shape": [' + b"9" * 5000 + b'], "data_offsets": [0, 4]}}', "damaged header"),
        (b'{"a": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 4]}}', "not a count"),
        (b'{"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}', "damaged header"),
        (b'{"a": {"dtype": "F32", "shape": [true], "data_offsets": [0, 4]}}', "not a count"),
        (b"\xff" * 50, "damaged header"),
    ],
)
def test_headers_made_to_hurt_are_refused(tmp_path: Path, text: bytes, complaint: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 4)
    with pytest.raises(UnreadableCheckpoint, match=complaint):
        read_header(path)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b'{"text_config":' + b"[" * 100_000),
        ("config.json", b"[]"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "' + b"x" * 5000 + b'"}}'),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "x\\u0000y"}}'),
        ("model.safetensors.index.json", b"[" * 100_000),
        ("model.safetensors.index.json", b'{"weight_map": {"a": ["b"]}}'),
    ],
)
def test_damaged_side_files_cost_at_most_their_checkpoint(run: Path, file: str, content: bytes) -> None:
    (run / "checkpoint-20" / file).write_bytes(content)
    trajectory = open_trajectory(run)
    assert set(trajectory.steps) >= {0, 10, 30}
    assert all(str(run / "checkpoint-20") in reason for reason in trajectory.skipped.values())


@pytest.mark.parametrize(
    "row",
    [{"step": [1], "learning_rate": 1}, {"step": 1, "learning_rate": "x"}, {"step": 1e999, "learning_rate": None}],
)
def test_damaged_logs_are_passed_over(run: Path, row: dict[str, Any]) -> None:
    good = {"step": 30, "learning_rate": 1e-6}
    (run / "checkpoint-30" / "trainer_state.json").write_text(json.dumps({"log_history": [row, good, 3]}))
    assert learning_rates(open_trajectory(run)) == {30: 1e-6}


def test_a_number_too_long_to_be_a_step_is_no_step(run: Path) -> None:
    shutil.copytree(run / "checkpoint-30", run / f"checkpoint-{10**30}")
    found = find_steps([run])
    assert list(found.steps) == [0, 10, 20, 30]
    assert "says more than a step" in found.unused[str(run / f"checkpoint-{10**30}")]


# Tests may run as root, who may read everything: the calls are refused instead, below one path.


def refuse_below(path: Path, call: Callable[..., Any]) -> Callable[..., Any]:
    def refusing(first: Any, *rest: Any, **more: Any) -> Any:
        if str(first).startswith(str(path)):
            raise PermissionError(13, "Permission denied")
        return call(first, *rest, **more)

    return refusing


@pytest.mark.parametrize("what", ["file", "folder"])
def test_no_permission_skips_the_checkpoint_and_says_so(run: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    denied = run / "checkpoint-20"
    with monkeypatch.context() as patch:
        if what == "file":
            patch.setattr("builtins.open", refuse_below(denied, open))
        else:  # it is listed, but what it holds may not be looked at
            patch.setattr(Path, "stat", refuse_below(denied / "model", Path.stat))
        trajectory = open_trajectory(run)
    assert trajectory.steps == (0, 10, 30)
    assert "Permission denied" in trajectory.skipped[20]
    assert str(denied) in trajectory.skipped[20]


def test_a_permission_that_is_lost_during_the_scan_names_file_and_tensor(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trajectory = open_trajectory(run)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse_below(run / "checkpoint-20", os.open))
        with pytest.raises(
            InputError, match=r"checkpoint-20/model\.safetensors cannot be read \(Permission denied\), at tensor '"
        ):
            list(scan(trajectory))


def test_a_run_that_may_not_be_listed_says_so(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for call, complaint in (("iterdir", "cannot be listed"), ("stat", "cannot be read")):
        with monkeypatch.context() as patch:
            patch.setattr(Path, call, refuse_below(run, getattr(Path, call)))
            with pytest.raises(InputError, match=rf"run {complaint} \(Permission denied\)"):
                find_steps([run])


def test_a_shard_outside_the_folder_is_not_opened(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    save_tensors(outside / "secret.safetensors", {"up.weight": np.ones((40, 30))})
    weights_file(run, 20).unlink()
    read: list[str] = []
    opened = open

    def spy(path: Any, *rest: Any, **more: Any) -> Any:
        read.append(str(path))
        return opened(path, *rest, **more)

    monkeypatch.setattr("builtins.open", spy)
    for shard in ("../../elsewhere/secret.safetensors", str(outside / "secret.safetensors"), "..", "sub/x.safetensors"):
        index = {"weight_map": {"up.weight": shard}}
        (run / "checkpoint-20" / "model.safetensors.index.json").write_text(json.dumps(index))
        assert "outside its folder" in open_trajectory(run).skipped[20]
    assert not [path for path in read if "elsewhere" in path]


@pytest.mark.parametrize("command", ["analyze", "backtest", "extrapolate"])
def test_a_full_disk_leaves_nothing_and_one_sentence(run: Path, tmp_path: Path, command: str) -> None:
    """A limit on the size of files stands in for the disk."""
    words = [
        "driftline",
        command,
        str(run),
        "--out",
        str(tmp_path / "out"),
        *(["--to", "60"] if command == "extrapolate" else []),
    ]
    code = f"""
import resource, sys
import driftline.report.analysis, driftline.report.backtest, driftline.writing.extrapolate
resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
from driftline.cli import main
sys.argv = {words!r}
main()
"""
    result = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 2, result.stderr
    assert "could not be written" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "config.json", "trainer_state.json"])
def test_json_of_any_size_takes_bounded_memory(run: Path, name: str) -> None:
    """A sparse file of 8 GiB in the place of a small one is not read whole."""
    with open(run / "checkpoint-30" / name, "wb") as file:
        file.truncate(8 << 30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    trajectory = open_trajectory(run)
    assert learning_rates(trajectory) == {}
    assert trajectory.steps == (0, 10, 20, 30)  # model.safetensors goes before an index
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512 << 10  # KiB
