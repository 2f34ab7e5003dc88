"""The demo at its smoke size, with rewards for the right answer and by coin toss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from driftline.commands import demo
from driftline.commands.demo import Demo

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
FOLDER = Path("driftline-demo")


def read(name: str) -> Any:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def printed(request: Demo, capsys: pytest.CaptureFixture[str]) -> str:
    demo.show(demo.run(request), request)
    return " ".join(capsys.readouterr().out.split())


def test_from_training_to_report_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    said = printed(Demo(quick=True), capsys)
    summary = read("analysis/summary.json")
    assert summary["parameters"]["total"] == 2_366_400
    assert summary["steps"] == list(range(0, 17, 2))
    for page in (FOLDER / "report.html", FOLDER / "analysis" / "report.html"):
        assert page.stat().st_size < 2_000_000
    assert read("run/run.json")["completed"] is True
    assert "report: driftline-demo/analysis/report.html" in said
    assert "recommended_horizon" in read("backtest/backtest.json")
    for name in ("hindsight", "forecast"):
        assert read(f"{name}/driftline.json")["sources"]
    assert read("hindsight/driftline.json")["target"] == 16
    scores = read("scores.json")
    rows = scores["rows"]
    models = ["checkpoint-4", "checkpoint-4", "hindsight", "checkpoint-16", "forecast"]
    assert [Path(row["folder"]).name for row in rows] == models
    assert all(0 < row["sampled"] <= 1 for row in rows)
    late, colder, forecast = rows[:3]
    control = scores["hindsight"]
    assert [late["sampled"], colder["sampled"]] == [control["late"]["avg@k"], control["late_matched"]["avg@k"]]
    assert forecast["sampled"] == pytest.approx(late["sampled"] + control["gain"]["mean"])
    assert forecast["greedy"] > late["greedy"] == colder["greedy"]
    assert control["sentence"] in said
    weights = (FOLDER / "run" / "checkpoint-16" / "model.safetensors").stat().st_mtime_ns
    assert "already done" in printed(Demo(quick=True), capsys)
    assert (FOLDER / "run" / "checkpoint-16" / "model.safetensors").stat().st_mtime_ns == weights


def test_the_control_learns_nothing_and_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewards by coin toss: drift is not told from chance, nothing is forecast, and no forecast is better."""
    monkeypatch.chdir(tmp_path)
    demo.run(Demo(quick=True, control=True))
    assert read("run/run.json")["settings"]["reward"] == "coin"
    assert read("analysis/summary.json")["verdict"]["linear"] is False
    assert read("backtest/backtest.json")["recommended_horizon"] == 0
    scores = read("scores.json")
    assert [scores[name]["verdict"] for name in ("hindsight", "forecast")] == ["nothing", "nothing"]
