"""The study of rates: predictions come first and stay, and hits and misses are counted right."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lab_like import write_run
from msgspec.structs import replace

from conftest import save_tensors
from driftline.errors import InputError
from driftline.files.record import read_record, write_record
from driftline.lab.settings import LabRun
from driftline.report import study as page
from driftline.studies import rates, study
from driftline.studies.predicted_rates import Cell, PredictedRates, findings
from driftline.studies.rates import parts, plan, register
from driftline.studies.study import run_study

LOWEST, OTHERS = 1e-5, (3e-5, 1e-4, 3e-4)


def checkpoints(folder: Path, seed: int = 0) -> None:
    """Of a run that drifts and is noisy, every two steps."""
    rng = np.random.default_rng(seed)
    direction, weights = rng.standard_normal((2, 400))
    for step in range(0, 51, 2):
        (folder / f"checkpoint-{step}").mkdir()
        save_tensors(folder / f"checkpoint-{step}" / "model.safetensors", {"w": weights})
        (folder / f"checkpoint-{step}" / "config.json").write_text(json.dumps({"model_type": "test"}))
        weights = weights + 2e-3 * direction + 4e-3 * rng.standard_normal(400)


def settings(rate: float, batch: int = 2, seed: int = 0) -> LabRun:
    return LabRun(learning_rate=rate, prompts_per_step=batch, seed=seed, steps=50 if rate == LOWEST else 30)


def accuracy(pace: float, *, collapses: bool) -> Callable[[int], float]:
    """Of a run from .4 on, so much better each step; one that collapses does at step 15."""
    return lambda step: 0.1 if collapses and step >= 15 else 0.4 + pace * step


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Path]:
    """One batch and seed: the faster the better, up to 1e-4; at 3e-4 it collapses."""
    found = {}
    pace = {LOWEST: 0.002, 3e-5: 0.005, 1e-4: 0.01, 3e-4: 0.02}
    for rate in (LOWEST, *OTHERS):
        folder = tmp_path / "out" / "runs" / f"{rate:g}"
        last = 50 if rate == LOWEST else 30
        write_run(folder, settings(rate), range(0, last + 1, 5), accuracy(pace[rate], collapses=rate == 3e-4))
        found[f"{rate:g}"] = folder
    checkpoints(found["1e-05"])
    return found


def predicted(out: Path, first: Path, **figures: Any) -> None:
    """Register, and put other figures in the place of those that were predicted."""
    register(out, {"lowest": first}, {})
    told = read_record(out / "predictions.json", PredictedRates, what="test")
    rows = [replace(row, **figures) for row in told.predictions]
    write_record(out / "predictions.json", replace(told, predictions=rows))


def cell_of(found: Any, model: str = "plain") -> Cell:
    (cell,) = (row for row in found.rows if row.prediction.model == model)
    return cell


@pytest.mark.parametrize(
    ("factor", "in_window", "chance", "below"),
    [
        (20.0, True, 0.25, 2),
        (50.0, False, 0.25, 3),
        (200.0, False, 0.0, 4),
        (10.0, False, 0.25, 2),
        (1.0, False, 0.0, 0),
    ],
)
def test_the_best_rate_is_held_against_what_was_predicted(
    runs: dict[str, Path], tmp_path: Path, factor: float, in_window: bool, chance: float, below: int
) -> None:
    predicted(tmp_path / "out", runs["1e-05"], factor=factor)
    cell = cell_of(rates.measure(runs, quick=False))
    assert cell.best == 1e-4
    inside = [rate for rate in (LOWEST, *OTHERS) if 0.25 <= rate / (factor * LOWEST) <= 0.75]
    if inside:
        assert (cell.in_window, cell.in_window_by_chance) == (in_window, len(inside) / 4)
    else:
        assert cell.in_window is None
    quarter = factor * LOWEST / 4
    assert cell.nearest_to_a_quarter == min((LOWEST, *OTHERS), key=lambda rate: max(rate / quarter, quarter / rate))
    assert [run.collapsed for run in cell.runs] == [False, False, False, True]
    assert cell.tried_below == sum(rate < 0.5 * factor * LOWEST for rate in (LOWEST, *OTHERS))
    assert cell.collapses_below == ([3e-4] if factor > 60 else [])
    assert len(cell.runs[0].sampled) == 7  # of the lowest, as many steps as of the others


def test_predictions_are_written_once(runs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match="was made before anything was predicted of it"):
        register(out, {"a": runs["1e-05"]}, {"b": runs["3e-05"]})
    register(out, {"a": runs["1e-05"]}, {"b": tmp_path / "not there"})
    written = (out / "predictions.json").read_bytes()
    checkpoints_of_another = runs["1e-05"] / "checkpoint-20" / "model.safetensors"
    save_tensors(checkpoints_of_another, {"w": np.zeros(400)})
    register(out, {"a": runs["1e-05"]}, {"b": runs["3e-05"]})
    assert (out / "predictions.json").read_bytes() == written
    told = read_record(out / "predictions.json", PredictedRates, what="test").predictions
    assert [row.model for row in told] == list(rates.MODELS)
    assert all(row.written and row.factor and row.noise_scale for row in told)


def test_runs_of_ones_own_are_predicted_in_hindsight(runs: dict[str, Path], tmp_path: Path) -> None:
    found = rates.measure(runs, quick=False)
    assert all(row.prediction.written is None for row in found.rows)
    assert not (tmp_path / "out" / "predictions.json").exists()


def test_the_plan_says_every_rate_after_its_own_prediction() -> None:
    whole = plan(quick=False, task="strategy")
    assert len(whole) == 65
    assert len(plan(quick=False)) == 45
    divided = list(parts(whole))
    assert [label for pair in divided for part in pair for label in part] == list(whole)
    for first, others in divided:
        (lowest,) = first.values()
        assert all(one.learning_rate > lowest.learning_rate for one in others.values())
        alike = (lowest.seed, lowest.prompts_per_step, lowest.model, lowest.optimizer, lowest.reward)
        for one in others.values():
            assert (one.seed, one.prompts_per_step, one.model, one.optimizer, one.reward) == alike


def test_noise_scales_of_the_batches_of_a_seed_are_compared(runs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    other = write_run(out / "runs" / "other", settings(LOWEST, batch=8), range(0, 51, 5))
    checkpoints(other, seed=1)
    register(out, {"a": runs["1e-05"], "b": other}, {})
    told = read_record(out / "predictions.json", PredictedRates, what="test")
    for ratio, said in ((1.5, "1.5 between them, as predicted"), (3.0, "3.0 between them, not as predicted")):
        rows = [replace(row, noise_scale=40.0 * (ratio if row.batch == 8 else 1)) for row in told.predictions]
        write_record(out / "predictions.json", replace(told, predictions=rows))
        found = rates.measure({**runs, "other": other}, quick=False)
        assert any("Noise scale, seed 0: 40" in sentence and said in sentence for sentence in found.sentences)


def test_a_run_of_another_kind_is_predicted_and_counted_for_itself(runs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    other = write_run(out / "runs" / "other", LabRun(**{**asdict(settings(LOWEST)), "model": "llama"}), range(0, 51, 5))
    checkpoints(other, seed=1)
    register(out, {"a": runs["1e-05"]}, {})
    register(out, {"b": other}, {"c": tmp_path / "not there"})
    told = read_record(out / "predictions.json", PredictedRates, what="test").predictions
    assert [(row.kind or "", row.batch, row.seed) for row in told] == [("", 2, 0)] * 3 + [("llama", 2, 0)] * 3
    found = rates.measure({**runs, "other": other}, quick=False)
    assert [row.prediction.kind or "" for row in found.rows if row.prediction.model == "plain"] == ["", "llama"]
    assert all(row.prediction.written for row in found.rows)
    assert not any("Noise scale" in sentence for sentence in found.sentences)  # of one batch nothing is compared


def test_rules_are_counted_apart_on_runs_of_other_kinds(runs: dict[str, Path], tmp_path: Path) -> None:
    predicted(tmp_path / "out", runs["1e-05"], factor=20.0)
    (usual,) = (row for row in rates.measure(runs, quick=False).rows if row.prediction.model == "plain")
    told = replace(usual.prediction, noise_scale=40.0)
    noised = replace(told, kind="half of the rewards by coin", noise_scale=60.0)
    rows = [
        replace(usual, prediction=told),
        replace(usual, prediction=replace(told, kind="llama"), in_window=False, nearest_to_a_quarter=3e-5),
        replace(usual, prediction=noised, in_window=False, nearest_to_a_quarter=1e-4),
        replace(usual, task="strategy", prediction=told, nearest_to_a_quarter=3e-5),  # the second rule was made from it
    ]
    said = "\n".join(findings(rows))
    assert "\nRate: the best is between 0.25 and 0.75 of the limit in 2 of 2" in said
    assert (
        "\nSecond rule, on pairs that it was not made from: the best is the one nearest to 0.25 of the limit in" in said
    )
    assert f"in {int(usual.best == usual.nearest_to_a_quarter)} of 1; " in said
    assert "\nOf other kinds. Rate: the best is between 0.25 and 0.75 of the limit in 0 of 2" in said
    assert "\nOf other kinds. Second rule" in said
    assert "1.5 times that with all of them right, not as predicted (at least 2)" in said


def test_the_command_predicts_between_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is trained at another rate finds its prediction written."""
    there: list[tuple[str, bool]] = []

    def train(out: Path, asked: LabRun, *, overwrite: bool) -> None:
        there.append((out.name, (out.parents[1] / "predictions.json").is_file()))
        write_run(out, asked, range(0, asked.steps + 1, 4))
        if asked.learning_rate == LOWEST:
            checkpoints(out)

    monkeypatch.setattr("driftline.lab.run.train", train)
    record = run_study("rates", tmp_path / "out", quick=True)
    assert there == [("1e-05, batch 2, seed 0", False), ("0.0001, batch 2, seed 0", True)]
    assert record is not None
    page.write(tmp_path / "out", record, command="driftline study rates --quick")
    assert "largest useful rate" in (tmp_path / "out" / "report.html").read_text()
    assert "rates" in study.STUDIES
