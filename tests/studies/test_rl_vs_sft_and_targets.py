"""The studies of RL against SFT and of targets, on runs whose answer is known; and quick runs from end to end."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lab_like import write_run

from conftest import walk_weights
from driftline.errors import InputError
from driftline.files.record import read_record
from driftline.lab.settings import LabRun
from driftline.report import study as page
from driftline.studies import rl_vs_sft, weight_targets
from driftline.studies.study import STUDIES, run_study

MakeRun = Callable[..., Path]
STEPS = list(range(0, 100, 5))


def lab_like(make_run: MakeRun, rng: np.random.Generator, name: str, drift: float, algorithm: str, pace: float) -> Path:
    run = make_run(walk_weights(rng, STEPS, {"a": (60, 50)}, drift=drift), run=name)
    settings = LabRun(algorithm=algorithm, seed=0)  # type: ignore[arg-type]
    write_run(run, settings, STEPS, lambda step: min(0.3 + pace * step, 0.9), adam_beta1=0.0)
    return run


def test_rl_and_sft_are_compared_over_equal_updates_and_up_to_equal_accuracy(
    make_run: MakeRun, rng: np.random.Generator
) -> None:
    runs = {
        "rl": lab_like(make_run, rng, "rl", 0.5, "grpo", 0.004),  # ends at .68
        "sft": lab_like(make_run, rng, "sft", 0.0, "sft", 0.01),  # is there at step 40
    }
    found = rl_vs_sft.measure(runs, quick=False)
    rows = {(row.kind, row.cut): row for row in found.rows}
    assert rows["rl", "equal updates"].last == rows["sft", "equal updates"].last == 95
    assert rows["rl", "equal accuracy"].last == 95
    assert rows["sft", "equal accuracy"].last == 40
    assert rows["rl", "equal updates"].linear is True
    assert rows["sft", "equal updates"].linear is False
    assert rows["rl", "equal updates"].cosine > 0.1 > abs(rows["sft", "equal updates"].cosine)
    assert len(found.sentences) == 2
    with pytest.raises(InputError, match="is no finished run"):
        rl_vs_sft.measure({"x": runs["rl"].parent}, quick=False)


def test_correlations_are_spearmans() -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    rows = [
        target(best_horizon=b, recommended_horizon=r, recommended_by_best_method=7.0, persistence=p, late=l)
        for b, r, p, l in zip(
            rng.integers(0, 5, 12), rng.integers(0, 5, 12), [None, *rng.random(11)], range(3, 15), strict=True
        )
    ]
    found = weight_targets.correlations(rows)
    best = [row.best_horizon for row in rows]
    for key in ("recommended_horizon", "late"):
        assert found[key] == pytest.approx(spearmanr(best, [row[key] for row in rows])[0])
    expected = spearmanr(best[1:], [row.persistence for row in rows[1:]])[0]
    assert found["persistence"] == pytest.approx(expected)
    assert found["recommended_by_best_method"] is None
    assert found["weight_skill"] is None  # of none of them is it known


def target(**known: Any) -> weight_targets.WeightTarget:
    shape = {"run": "a", "held": 0.5, "horizons": [1], "scores": [0.5], "best_score": 0.5, "best_method": "hold"}
    unknown = dict.fromkeys(("weight_skill", "logprob_skill", "logprob_horizon"))
    return weight_targets.WeightTarget(**{**shape, **unknown, **known})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in STUDIES if name not in ("speedup", "filter-bias")])
def test_quick_studies_train_and_draw(tmp_path: Path, name: str) -> None:
    record = run_study(name, tmp_path / "out", quick=True)
    assert record is not None
    page.write(tmp_path / "out", record, command=f"driftline study {name}")
    assert record.rows
    assert all("nan" not in finding for finding in record.findings)
    assert record == read_record(tmp_path / "out" / "study.json", type(record), what="driftline study")
    if name == "weight-targets":
        row = record.rows[-1]
        assert row.late == 8
        assert row.horizons == [1, 2, 4, 8, 16]
        assert all(0 <= score <= 1 for score in row.scores)
        assert not list((tmp_path / "out" / "runs").glob(".*.forecasts"))
