"""What is not a file in the place of one: nothing waits for it."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from attack import driftline, refused, save_run

from driftline.checkpoints.trajectory import open_trajectory
from driftline.errors import InputError, UnreadableCheckpoint
from driftline.files.regular import IRREGULAR, descriptor, open_regular, read_regular


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


def unix_socket(path: Path) -> None:
    here = os.open(path.parent, os.O_RDONLY)  # the address of a socket is short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


Put = Callable[[Path], None]
IRREGULARS = [pipe, device, unix_socket]


@pytest.mark.parametrize("put", IRREGULARS)
@pytest.mark.parametrize("mode", ["rb", "wb", "ab"])
def test_only_regular_files_are_opened(tmp_path: Path, put: Put, mode: str) -> None:
    put(tmp_path / "file")
    with pytest.raises(OSError, match=IRREGULAR):
        open_regular(tmp_path / "file", mode)


def test_a_folder_and_what_is_not_there_are_told_as_ever(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "file")
    (tmp_path / "file").write_bytes(b"text")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "link") == b"text"
    opened = descriptor(tmp_path / "file")
    assert not os.get_inheritable(opened)
    os.close(opened)


@pytest.mark.parametrize("put", [*IRREGULARS, folder])
@pytest.mark.parametrize(
    "name",
    [
        "checkpoint-20/config.json",
        "checkpoint-20/trainer_state.json",
        "checkpoint-20/optimizer.pt",
        "checkpoint-20/adapter_config.json",
        "checkpoint-20/config.yaml",
        "checkpoint-20/README.md",
        "checkpoint-20/.metadata",
        "latest_checkpointed_iteration.txt",
        "log.jsonl",
        "run.json",
    ],
)
def test_beside_the_weights_they_are_as_if_not_there(tmp_path: Path, name: str, put: Put) -> None:
    from driftline.checkpoints.configuration import adam_beta1, learning_rates
    from driftline.writing.card import base_model

    run = save_run(tmp_path / "run")
    (run / name).unlink(missing_ok=True)
    put(run / name)
    trajectory = open_trajectory(run)
    assert trajectory.steps == (0, 10, 20)
    assert adam_beta1(trajectory) == (0.9, "assumed")
    assert learning_rates(trajectory) == {}
    assert base_model(trajectory) is None


@pytest.mark.parametrize("put", [*IRREGULARS, folder])
@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"])
def test_a_checkpoint_of_them_is_skipped_with_its_reason(tmp_path: Path, name: str, put: Put) -> None:
    run = save_run(tmp_path / "run")
    (run / "checkpoint-20" / "model.safetensors").unlink()
    put(run / "checkpoint-20" / name)
    assert list(open_trajectory(run).skipped) == [20]


@pytest.mark.parametrize("put", [*IRREGULARS, folder])
def test_jumps_that_are_no_file_are_refused(tmp_path: Path, put: Put) -> None:
    run = save_run(tmp_path / "run")
    put(run / "jumps.json")
    with pytest.raises(InputError, match=r"jumps\.json cannot be read"):
        open_trajectory(run)


def test_weights_that_become_a_pipe_are_not_waited_for(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run")
    trajectory = open_trajectory(run)
    (run / "checkpoint-20" / "model.safetensors").unlink()
    pipe(run / "checkpoint-20" / "model.safetensors")
    with pytest.raises(UnreadableCheckpoint, match=IRREGULAR):
        trajectory["model.up.weight"].stored[-1].values(0, 4)


@pytest.mark.slow
def test_commands_say_so(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run")
    pipe(run / "jumps.json")
    assert IRREGULAR in refused("analyze", run, out=tmp_path / "analysis")
    (run / "jumps.json").unlink()
    assert driftline("watch", run, "--once", "--settle", "0", "--out", tmp_path / "watch").code == 0
    plan = tmp_path / "watch" / "state" / "plan" / "plan.json"
    plan.unlink()
    pipe(plan)
    assert IRREGULAR in refused("watch", run, "--once", "--out", tmp_path / "watch")
    pipe(tmp_path / "summary.json")
    assert IRREGULAR in refused("compare", tmp_path, tmp_path / "watch", out=tmp_path / "comparison")


@pytest.mark.parametrize("name", ["generation_config.json", "notes.txt", "tokenizer.model"])
def test_what_a_link_out_of_the_run_leads_to_is_not_copied(tmp_path: Path, name: str) -> None:
    """Into a model that may then be published."""
    (tmp_path / "secret").write_text("{}")
    run = save_run(tmp_path / "runs" / "run")
    (run / "checkpoint-20" / name).symlink_to("../../../secret")
    sentence = refused("extrapolate", run, "--to", "30", out=tmp_path / "model")
    assert f"{name} is a link that leads out of its run, to {tmp_path / 'secret'}: put a copy" in sentence


def test_links_within_a_run_and_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run")
    (run / "tokenizer").mkdir()
    (run / "tokenizer" / "tokenizer.json").write_text('{"a": 1}')
    (run / "checkpoint-20" / "tokenizer.json").symlink_to("../tokenizer/tokenizer.json")
    made = tmp_path / "first"
    assert driftline("extrapolate", run, "--to", "30", "--method", "two-point", "--out", made).code == 0
    assert (made / "tokenizer.json").read_text() == '{"a": 1}'

    cache = tmp_path / "models--owner--run"
    shutil.copytree(run, cache / "snapshots" / "abc")
    (cache / "blobs").mkdir()
    (cache / "blobs" / "0123").write_text('{"b": 2}')
    linked = cache / "snapshots" / "abc" / "checkpoint-20" / "tokenizer.json"
    linked.unlink()
    linked.symlink_to("../../../blobs/0123")
    made, cached = tmp_path / "second", cache / "snapshots" / "abc"
    assert driftline("extrapolate", cached, "--to", "30", "--method", "two-point", "--out", made).code == 0
    assert (made / "tokenizer.json").read_text() == '{"b": 2}'
