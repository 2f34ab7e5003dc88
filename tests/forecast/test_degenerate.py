"""Runs at the edge of what a run can be: sentences and finite figures, never a traceback, a warning or a reach without end.

Warnings are errors in all tests.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from driftline.cli import main
from driftline.forecast.extrapolators import methods

RNG = np.random.default_rng(0)
W = (0.02 * RNG.standard_normal((24, 24))).astype(np.float32)
D = (1e-4 * RNG.standard_normal((24, 24))).astype(np.float32)
NOISE = (2e-5 * RNG.standard_normal((7, 24, 24))).astype(np.float32)
LINE = [W + np.float32(k) * D + NOISE[k] for k in range(7)]


def outlier(k: int) -> np.ndarray:
    weights = LINE[k].copy()
    weights[0, 0] = 1e15 * (k + 1)
    return weights


RUNS: dict[str, list[np.ndarray]] = {
    "still": [W] * 6,
    "zeros": [np.zeros_like(W)] * 6,
    "still at first": [W] * 3 + LINE[1:5],
    "still at the end": LINE[:4] + [LINE[3]] * 3,
    "a line that stops": [W + k * D for k in range(5)] + [W + 4 * D] * 2,
    "two equal": [*LINE[:3], *LINE[2:6]],
    "last two equal": [*LINE[:6], LINE[5]],
    "one weight": [np.array([[k]], np.float32) for k in range(7)],
    "scalar": [np.array(k, np.float32) for k in range(7)],
    "one checkpoint": [W],
    "two checkpoints": LINE[:2],
    "three checkpoints": LINE[:3],
    "four checkpoints": LINE[:4],
    "exact line of five": [W + k * D for k in range(5)],
    "exact line": [W + k * D for k in range(7)],
    "long exact line": [np.arange(9, dtype=np.float32) * k for k in range(40)],
    "huge": [line * np.float32(1e30) for line in LINE],
    "near the largest": [np.full((4, 4), 3e38 * (1 - k / 100), np.float32) for k in range(7)],
    "from end to end": [np.full((4, 4), 2.5e38 * (-1) ** k, np.float32) for k in range(7)],
    "tiny": [line * np.float32(1e-36) for line in LINE],
    "subnormal": [(np.arange(576) * k * 1e-45).astype(np.float32) for k in range(7)],
    "huge move": [W * np.float32(10.0**k) for k in range(0, 35, 5)],
    "there and back": [W + k * D for k in (1, 2, 3, 2, 1, 0, 1)],
    "alternating": [W + (k % 2) * D for k in range(8)],
    "bf16": [line.astype(ml_dtypes.bfloat16) for line in LINE],
    "bf16 of equal neighbours": [(W + 0.1 * k * D).astype(ml_dtypes.bfloat16) for k in range(7)],
    "bf16 that hardly moves": [(W + 0.001 * k * D).astype(ml_dtypes.bfloat16) for k in range(7)],
    "bf16 tiny": [(line * 1e-36).astype(ml_dtypes.bfloat16) for line in LINE],
    "fp16 near infinity": [np.clip(line * 1e6, -65000, 65000).astype(np.float16) for line in LINE],
    "fp64 beyond fp32": [line.astype(np.float64) * 1e45 for line in LINE],
    "one outlier": [outlier(k) for k in range(7)],
    "one weight once": [np.array([0, 0, float(k == 6)], np.float32) for k in range(7)],
    "exponential": [W + 2.0**k * D for k in range(7)],
}
NOT_FINITE = re.compile(r"(?<![-\w/])(nan|inf|None)(?![-\w/])")


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    def save(weights: list[np.ndarray], steps: list[int] | None = None, *, still: bool = False) -> Path:
        for step, values in zip(steps or range(10, 10 * len(weights) + 1, 10), weights, strict=True):
            folder = tmp_path / f"run/checkpoint-{step}"
            folder.mkdir(parents=True)
            tensors = {"model.layers.0.w.weight": values} | ({"model.layers.0.b.weight": W} if still else {})
            save_file(tensors, folder / "model.safetensors", {"format": "pt"})
            (folder / "config.json").write_text("{}")
        return tmp_path / "run"

    return save


@pytest.fixture
def driftline(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def call(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["driftline", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        printed = capsys.readouterr()
        text = printed.out + printed.err
        assert code in (0, 2), text
        assert "Traceback" not in text
        assert not NOT_FINITE.search(text.replace("not finite", "")), text
        return code, text

    return call


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("command", ["analyze", "backtest"])
def test_figures_are_finite_or_the_reason_is_said(
    name: str, command: str, saved: Callable[..., Path], driftline: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    code, text = driftline(command, saved(RUNS[name]), "--out", tmp_path / "out", "--quiet")
    if code == 2:
        assert len(text.strip().splitlines()) == 1
        return
    page = (tmp_path / "out/report.html").read_text()
    body = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.S)
    assert not NOT_FINITE.search(body)
    if command == "backtest":
        found = json.loads((tmp_path / "out/backtest.json").read_text())
        assert found["recommended_horizon"] <= 10 * len(RUNS[name])


@pytest.mark.parametrize("name", RUNS)
def test_a_watch_and_advice_too(
    name: str, saved: Callable[..., Path], driftline: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    run = saved(RUNS[name])
    for words in (["advise", run], ["watch", run, "--once", "--settle", "0", "--out", tmp_path / "out"]):
        code, text = driftline(*words)
        assert text or not code


@pytest.mark.parametrize("name", RUNS)
def test_every_method_writes_finite_weights_or_says_why_not(
    name: str, saved: Callable[..., Path], driftline: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    run = saved(RUNS[name])
    for method in ("auto", *methods()):
        out = tmp_path / method
        code, _ = driftline("extrapolate", run, "--to", 1000, "--method", method, "--out", out, "--quiet")
        assert (out / "driftline.json").is_file() == (code == 0)
        for file in out.glob("*.safetensors"):
            for values in load_file(file).values():
                assert np.isfinite(values.astype(np.float64)).all()


@pytest.mark.parametrize("exponent", [-110, -60, 60, 90])
def test_statistics_do_not_depend_on_the_unit_of_the_weights(
    exponent: int, saved: Callable[..., Path], driftline: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    """A power of two scales float32 exactly, so nothing but the sums of squares could differ."""
    scaled = saved([np.ldexp(line, exponent) for line in LINE], [10, 20, 30, 40, 50, 60, 70])
    driftline("analyze", scaled, "--out", tmp_path / "scaled", "--quiet")
    scaled.rename(tmp_path / "moved")
    driftline("analyze", saved(LINE), "--out", tmp_path / "plain", "--quiet")
    found, expected = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("scaled", "plain"))
    assert found["persistence"]["length"] == pytest.approx(expected["persistence"]["length"], rel=1e-3)
    for part in ("r2", "rank1", "parameters"):
        assert found[part] == pytest.approx(expected[part], rel=1e-4), part
    assert found["skill"]["methods"] == pytest.approx(expected["skill"]["methods"], rel=1e-4)
    for key in ("increment_cosine", "growth_exponent", "noise_to_drift", "effective_dimension"):
        assert found["drift"][key] == pytest.approx(expected["drift"][key], rel=1e-3), key
    assert found["verdict"]["linear"] is expected["verdict"]["linear"] is True
    np.testing.assert_allclose(np.array(found["gram"]) / 4.0**exponent, expected["gram"], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("weights", "steps"),
    [
        ([W + k * D for k in range(5)], [10, 20, 30, 40, 50]),
        ([W + k * D for k in range(6)], [10, 20, 30, 40, 50, 60]),
        ([W + k * D for k in (0, 1, 2, 4, 8, 16, 32)], [0, 1, 2, 4, 8, 16, 32]),
        ([W + k * D for k in (1, 2, 3, 4, 5, 50)], [10, 20, 30, 40, 50, 500]),
    ],
    ids=["five", "six", "doubling", "one far off"],
)
def test_two_point_is_recommended_for_an_exact_line(
    weights: list[np.ndarray],
    steps: list[int],
    saved: Callable[..., Path],
    driftline: Callable[..., tuple[int, str]],
    tmp_path: Path,
) -> None:
    run = saved(weights, steps)
    driftline("backtest", run, "--out", tmp_path / "tested", "--quiet")
    found = json.loads((tmp_path / "tested/backtest.json").read_text())
    assert found["best_method"] == "two-point"
    assert found["horizons"]["two-point"] > 0
    assert found["recommended_horizon"] == found["horizons"]["two-point"]
    _, text = driftline("extrapolate", run, "--to", steps[-1] + 1, "--out", tmp_path / "model", "--quiet")
    assert f"two-point through steps {steps[0]} and {steps[-1]}: on this run's own checkpoints it beat holding" in text


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("still at first", "the run stands still (the checkpoints of steps 10 to 40 are equal)"),
        ("two equal", "the run stands still (the checkpoints of steps 30 and 40 are equal)"),
        ("last two equal", "the run stands still at its end (the checkpoints of steps 60 and 70 are equal)"),
        ("a line that stops", "the run stands still at its end (the checkpoints of steps 50 to 70 are equal)"),
    ],
)
def test_a_run_that_stands_still_is_held_and_the_checkpoints_are_named(
    name: str, why: str, saved: Callable[..., Path], driftline: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    weights = [W] * 4 + LINE[1:4] if name == "still at first" else RUNS[name]
    run = saved(weights)
    _, text = driftline("backtest", run, "--out", tmp_path / "tested", "--quiet")
    assert f"T{why[1:]}" in text
    assert "no horizon can be recommended" in text
    _, text = driftline("extrapolate", run, "--to", 100, "--out", tmp_path / "model", "--quiet")
    assert f"hold: {why}" in text
    assert np.array_equal(next(iter(load_file(tmp_path / "model/model.safetensors").values())), weights[-1])


def test_an_exact_line_has_no_bend(
    saved: Callable[..., Path], driftline: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    for count in (5, 6, 7):
        driftline(
            "analyze", saved([W + k * D for k in range(count)]), "--out", tmp_path / "out", "--quiet", "--overwrite"
        )
        found = json.loads((tmp_path / "out/summary.json").read_text())
        assert len(found["regime"]["segments"]) == 1
        (tmp_path / "run").rename(tmp_path / f"run-{count}")


def test_a_tensor_that_never_changes_takes_nothing_away(
    saved: Callable[..., Path], driftline: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    _, text = driftline("analyze", saved(LINE, still=True), "--out", tmp_path / "out", "--quiet")
    assert "Linear from step 10 to 70" in text
    assert "576 of 1,152 parameters measured" in text


def test_steps_are_written_with_all_their_digits(
    saved: Callable[..., Path], driftline: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    run = saved(LINE, [1234567 * k for k in range(1, 8)])
    _, text = driftline("backtest", run, "--out", tmp_path / "out", "--quiet")
    assert "to step 11111103" in text
    assert "--to 11111103" in (tmp_path / "out/report.html").read_text().replace("<span>", "").replace("</span>", "")
    assert "e+0" not in text
