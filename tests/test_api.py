"""The commands as functions: each writes what its command writes, and gives the record."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import driftline
from conftest import plain, walk_weights
from driftline import cli
from driftline.linearity.summary import read_summary

STEPS = list(range(0, 100, 10))


@pytest.fixture
def run(make_run: Callable[..., Path], rng: np.random.Generator) -> Path:
    return make_run(walk_weights(rng, STEPS, {"up.weight": (20, 30), "norm.weight": (30,)}, drift=0.5))


def contents(folder: Path) -> dict[str, object]:
    """Names of the files, and the records in them less what depends on the moment."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        found[path.name] = None
        if path.suffix == ".json" and path.is_file():
            record = json.loads(path.read_text())
            found[path.name] = {key: value for key, value in record.items() if key != "cost"}
    return found


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("analyze", {"clock": "step", "filter": "none"}, []),
        ("analyze", {"steps": [0, 10, 20, 30, 40, 50]}, ["--steps", "0,10,20,30,40,50"]),
        ("backtest", {"rank": 2}, ["--rank", "2"]),
        ("extrapolate", {"to": [110, 120], "method": "damped"}, ["--to", "110,120", "--method", "damped"]),
        (
            "extrapolate",
            {"to": 110, "from_": (0, 90), "keep": "none"},
            ["--to", "110", "--from", "0", "90", "--keep", "none"],
        ),
    ],
)
def test_a_function_writes_what_its_command_writes(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, object], words: list[str]
) -> None:
    getattr(driftline, name)(str(run), tmp_path / "function", **options)
    monkeypatch.setattr(sys, "argv", ["driftline", name, str(run), "--out", str(tmp_path / "command"), *words])
    cli.main()
    assert contents(tmp_path / "function") == contents(tmp_path / "command")
    assert len(contents(tmp_path / "function")) >= 3


def test_the_record_is_what_was_written_and_nothing_is_printed(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    summary = driftline.analyze(driftline.open_trajectory(run), tmp_path / "analysis")
    assert plain(summary) == json.loads((tmp_path / "analysis" / "summary.json").read_text())
    assert read_summary(tmp_path / "analysis") == summary
    assert summary.run == driftline.open_trajectory(run).name
    driftline.analyze(run, tmp_path / "again", filter="none")
    record = driftline.compare([tmp_path / "analysis", tmp_path / "again"], tmp_path / "comparison")
    assert [row.linear for row in record.rows] == [True, True]
    assert driftline.inspect(run).steps == STEPS
    assert capfd.readouterr() == ("", "")


def test_bad_requests_raise_what_the_command_says(run: Path, tmp_path: Path) -> None:
    with pytest.raises(driftline.InputError, match="analyze has no option 'clok'"):
        driftline.analyze(run, tmp_path / "out", clok="lr")
    (tmp_path / "mine").touch()
    with pytest.raises(driftline.InputError, match="is not empty: choose another folder"):
        driftline.analyze(run, tmp_path)
