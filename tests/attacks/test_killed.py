"""What a killed process leaves: the next same call removes it and finishes; what another is writing stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from attack import driftline, save_run

from driftline.files.output import output_folder, scratch_folder

_WRITE = """
import sys, time
from pathlib import Path
from driftline.files.output import output_folder
with output_folder(Path(sys.argv[1])) as folder:
    (folder / "summary.json").write_text("{}")
    print("writing", flush=True)
    time.sleep(600)
"""


def writer(out: Path) -> subprocess.Popen[str]:
    """A process that has begun to write `out` and does not end."""
    process = subprocess.Popen([sys.executable, "-c", _WRITE, str(out)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def partials(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if "partial" in path.name or path.name.startswith("."))


@pytest.mark.parametrize("name", ["out", "out[1]", os.fsdecode(b"out-\xff"), ".out", "out.partial-x"])
def test_what_a_killed_writer_left_goes_with_the_next_call(tmp_path: Path, name: str) -> None:
    process = writer(tmp_path / name)
    assert len([path for path in tmp_path.iterdir() if f"{name}.partial-" in path.name]) == 1
    process.kill()
    process.communicate()
    with output_folder(tmp_path / name) as folder:
        (folder / "summary.json").write_text("{}")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_is_being_written_stays(tmp_path: Path) -> None:
    process = writer(tmp_path / "out")
    before = partials(tmp_path)
    with scratch_folder(tmp_path / "out"):
        pass
    with output_folder(tmp_path / "out") as folder:
        (folder / "summary.json").write_text("{}")
    assert partials(tmp_path) == before
    process.send_signal(signal.SIGTERM)
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "mark"),
    [
        (["analyze", "RUN", "--out", "OUT"], "summary.json"),
        (["watch", "RUN", "--once", "--settle", "0", "--out", "OUT"], "summary.json"),
        (["extrapolate", "RUN", "--to", "60,80", "--out", "OUT"], "driftline.json"),
    ],
    ids=["analyze", "watch", "extrapolate"],
)
def test_commands_that_were_killed_are_finished_by_the_same_call(tmp_path: Path, words: list[str], mark: str) -> None:
    run = save_run(tmp_path / "run", (0, 10, 20, 30, 40))
    (tmp_path / "results").mkdir()
    out = tmp_path / "results" / "out"
    words = [{"RUN": str(run), "OUT": str(out)}.get(word, word) for word in words]
    process = subprocess.Popen(
        [sys.executable, "-c", "from driftline.cli import main; main()", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not any((tmp_path / "results").iterdir()):
        time.sleep(0.01)
    process.kill()
    process.wait()
    answer = driftline(*words, "--overwrite") if (out / mark).exists() and words[0] != "watch" else driftline(*words)
    assert answer.code == 0, answer.said
    assert (out / mark).is_file()
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["out"]
    left = [path.name for path in out.rglob("*") if "partial" in path.name or path.name.startswith(".")]
    assert left == []
