"""What commands print fits 80 columns, whatever it is about."""

from __future__ import annotations

import msgspec
import pytest

from driftline import cli, terminal
from driftline.lab.record import DemoScores, ModelScore
from driftline.linearity.comparison import Comparison


def test_tables_fit_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"mean": 0.9, "median": 0.9512, "q25": 0.9, "q75": 1.0, "share_above_0.7": 0.9}
    row = {
        "folder": "results/a-folder-with-a-name-that-someone-has-made-rather-too-long-for-any-table",
        **{"kind": "weights", "run": "run", "checkpoints": 3, "first": 0, "last": 20, "filter": "none"},
        **{"r2": figures, "null_r2": figures, "increment_cosine": 0.731, "null_increment_cosine": 0.005},
        **{"growth_exponent": 0.9, "null_growth_exponent": 0.5, "skill": {}, "null_skill": {}},
        "persistence": {"length": 100.0, "interval": [50.0, None], "at_least": False},
        **{"linear": True, "sentence": ""},
    }
    terminal.comparison(msgspec.convert({"driftline": "0", "rows": [row, row]}, Comparison))
    name = "step 123456, forecast from steps 0 to 100000"
    score = ModelScore(model=name, folder="demo/forecast", greedy=1.0, sampled=0.5)
    terminal.scores(DemoScores(problems=256, samples=8, rows=[score]))
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) > 5
    assert max(map(len, printed)) <= 80


def test_what_to_type_first_fits_80_columns() -> None:
    assert max(map(len, cli._FIRST.splitlines())) <= 80


def test_the_time_left_of_a_run_is_told_from_the_steps_after_the_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    times = iter([100.0, 110.0, 120.0, 130.0])  # the first step took who knows how long
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(times))
    show = terminal.training_step(25, quiet=False)
    for step in (1, 11, 20, 25):
        show(step, {"reward": 0.5})
    assert capsys.readouterr().err.splitlines() == [
        "step 1/25: reward 0.500",
        "step 20/25: reward 0.500, about 5 s left",
        "step 25/25: reward 0.500",
    ]
