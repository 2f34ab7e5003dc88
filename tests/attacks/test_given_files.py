"""What the user names on the command line where a file is meant: files and pipes are read, anything else is refused."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attack import driftline, peak_memory, refused, save_run
from test_places import IRREGULARS, Put, folder, pipe

import driftline as package
from driftline.commands.requests import answer, must_be_meant
from driftline.commands.serve import Serve, key_of
from driftline.errors import InputError
from driftline.evaluation.tasks.registry import open_task
from driftline.files.fingerprint import digest
from driftline.files.json import read_given_json
from driftline.lab.settings import read_config
from driftline.prompts import read_rows

ROW = b'{"prompt": "w5", "answer": "1"}\n'


def key(path: Path) -> str | None:
    return key_of(Serve(late="model", key_file=path))


READERS = [read_rows, lambda path: open_task(str(path)), read_config, key]


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(5 << 30)


def no_text(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\n")


def dangling(path: Path) -> None:
    path.symlink_to("absent")


def fed(path: Path, content: bytes) -> None:
    pipe(path)
    threading.Thread(target=path.write_bytes, args=(content,), daemon=True).start()


@pytest.mark.parametrize("put", [*IRREGULARS[1:], folder, sparse, no_text, dangling])
@pytest.mark.parametrize("read", READERS)
def test_what_is_no_such_file_is_refused(tmp_path: Path, read: Callable[[Path], object], put: Put) -> None:
    put(tmp_path / "file.jsonl")
    before = peak_memory()
    with pytest.raises(InputError, match=r"file\.jsonl(, line 1,)? (cannot be read|is not UTF-8)"):
        read(tmp_path / "file.jsonl")
    assert peak_memory() - before < 256


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("name", ["n" * 300 + ".jsonl", "a\0b.jsonl"])
def test_a_name_that_no_file_has_is_refused(read: Callable[[Path], object], name: str) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read(Path(name))


def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    fed(tmp_path / "rows", ROW * 3)
    rows = read_rows(tmp_path / "rows")
    assert (len(rows), rows.digest) == (3, digest(ROW * 3))
    fed(tmp_path / "settings", b"steps = 3\n")
    assert read_config(tmp_path / "settings") == {"steps": 3}
    fed(tmp_path / "key", b"letters\n")
    assert key(tmp_path / "key") == "letters"
    fed(tmp_path / "scores", b'{"3": 1}')
    assert read_given_json(tmp_path / "scores") == {"3": 1}


def test_what_a_shell_hands_on_is_a_file(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.write(write, ROW)
    os.close(write)
    assert len(open_task(f"/dev/fd/{read}").problems) == 1
    os.close(read)
    with pytest.raises(InputError, match=r"cannot be read .not a regular file.: give"):
        read_rows(Path("/dev/null"))


def test_a_pipe_that_never_ends_is_not_read_for_ever(tmp_path: Path) -> None:
    pipe(tmp_path / "rows")
    done: list[OSError] = []

    def flood() -> None:
        try:
            with (tmp_path / "rows").open("wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 65536)
        except BrokenPipeError as error:
            done.append(error)

    writer = threading.Thread(target=flood, daemon=True)
    writer.start()
    with pytest.raises(InputError, match=r"cannot be read .a line of more than 16 MiB.: give"):
        read_rows(tmp_path / "rows")
    writer.join(30)
    assert done


def test_a_file_has_a_size(tmp_path: Path) -> None:
    (tmp_path / "rows").write_bytes(ROW * 100)
    with pytest.raises(InputError, match=r"cannot be read .more than 0 MiB.: give"):
        read_rows(tmp_path / "rows", longest=100)


def test_more_problems_than_can_be_made_are_refused() -> None:
    with pytest.raises(InputError, match="--problems is 1,000,000,000,000"):
        open_task("sums", problems=10**12)
    assert 400 < len(open_task("sums-of-two", problems=20_000).problems) < 600


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"out": "a\0b"}, "--out has a NUL"),
        ({"base": "a\0b"}, "--base has a NUL"),
        ({"beta1": float("nan")}, "--beta1 nan is not a finite number: give one"),
        ({"ema": float("inf")}, "--ema inf is not"),
        ({"out": "n" * 300}, "is a longer name than the system takes: give a shorter one"),
    ],
)
def test_options_that_nobody_means_are_refused(
    tmp_path: Path, options: dict[str, Any], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = save_run(tmp_path / "run")
    with pytest.raises(InputError, match=complaint):
        package.analyze(run, **{"out": "out", **options})
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_numbers_of_any_command_are_held_within_reason() -> None:
    from driftline.commands.activations import Activations
    from driftline.commands.requests import make

    given = {"run": "run", "rollouts": "rows", "out": "out"}
    for options, complaint in (
        ({"seed": -1}, "--seed is -1"),
        ({"units": 10**30}, "--units is a number of"),
        ({"layers": (1, 10**19)}, "--layers is a number of"),
    ):
        with pytest.raises(InputError, match=complaint):
            must_be_meant(make(Activations, **given, **options))


def test_what_the_system_refuses_is_a_sentence() -> None:
    class Full:
        def run(self, request: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/full/file")

    with pytest.raises(InputError, match=r"/full/file cannot be read or written .No space left on device.: mend that"):
        answer(Full(), Serve(late="model"))


@pytest.mark.slow
def test_commands_refuse_them_in_a_sentence(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run")
    (tmp_path / "scores.json").write_text(json.dumps({"0": 0, "10": 1, "20": 2}))
    assert "longer name" in refused("analyze", run, "--out", "n" * 300)
    assert "not a regular file" in refused("train", "--out", tmp_path / "lab", "--config", "/dev/zero")
    assert driftline("advise", run, "--analysis", "n" * 300).code == 2
