"""Nothing that a terminal obeys is printed, whatever a run or a checkpoint calls itself."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from driftline import progress, terminal
from driftline.cli import main
from driftline.plain import Screen, one_line, plain, plainly

ODD = "run\x1b[2J\x07\r\u202emoc\u2066\x9b31m\x85\u2028x"
SHOWN = r"run\x1b[2J\x07\r\u202emoc\u2066\x9b31m\x85\u2028x"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_control_characters_are_spelled_out_and_all_else_stays() -> None:
    assert plain(ODD) == SHOWN
    assert plain("µ ½ → 完\tR² – ∞ █\n") == "µ ½ → 完\tR² – ∞ █\n"
    assert plain("\udcff") == r"\udcff"


def test_a_name_makes_no_line_of_its_own() -> None:
    assert one_line("\na name\ndriftline: all is well\n") == "\na name\\ndriftline: all is well\n"
    assert one_line("\n\n") == "\n\n"


def test_a_screen_is_its_stream_but_for_what_is_written() -> None:
    stream = Terminal()
    screen = Screen(stream)
    assert screen.write(f"\r{ODD}\n") == len(ODD) + 2
    screen.writelines(["\x1b", "a"])
    assert stream.getvalue() == f"\r{SHOWN}\n\\x1ba"
    assert screen.isatty()


def test_colours_are_ours_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal the head of a table is bold; what a cell holds is not."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with plainly():
        terminal._table("\x1b[31mtitle", ["head"], [("\x1b[31mcell\n\x1b[2J",)])
    printed = stream.getvalue()
    assert "\x1b[1mhead" in printed
    assert "\x1b[31m" not in printed
    assert r"\x1b[31mtitle" in printed
    assert r"\x1b[31mcell\n\x1b[2J" in printed


def test_a_bar_says_what_it_is_of_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "_PATIENCE", -1.0)
    with plainly(), progress.progress_bar("[red]step\x07\x1b]0;title", 2, quiet=False, unit="rows") as advance:
        advance(1)
    assert r"[red]step\x07\x1b]0;title" in stream.getvalue()


@pytest.fixture
def odd_run(tmp_path: Path) -> Path:
    run = tmp_path / ODD
    for step in (0, 10, 20, 30):
        folder = run / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        weights: dict[str, np.ndarray] = {
            "a\x1b[2J\nb.weight": np.full((4, 4), 1.0 + step, np.float32),
            "c.weight": np.eye(4, dtype=np.float32),
        }
        if step == 20:
            weights["only\x1b[2J\nhere\u202e.weight"] = np.ones(3, np.float32)
        safetensors.numpy.save_file(weights, folder / "model.safetensors")
        (folder / "config.json").write_text("{}")
    (run / "checkpoint-40\x1b[1m\nx").mkdir()
    return run


@pytest.mark.parametrize(
    "words",
    [
        ["inspect"],
        ["inspect", "--json"],
        ["advise"],
        ["analyze", "--out", "a"],
        ["analyze", "--out", "b", "--json"],
        ["watch", "--once", "--settle", "0", "--out", "w"],
        ["extrapolate", "--to", "60", "--out", "m"],
    ],
    ids=" ".join,
)
def test_what_commands_print_of_a_run_is_plain(
    words: list[str],
    odd_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["driftline", words[0], str(odd_run), *words[1:]])
    main()
    printed = capsys.readouterr()
    for text in (printed.out, printed.err):
        assert text == plain(text)
        assert not any(line.startswith(("here", "b.weight", "x")) for line in text.splitlines())
    if "--json" in words:
        assert json.loads(printed.out)["run"].endswith(ODD)
    elif words[0] == "inspect":
        assert SHOWN in printed.out
