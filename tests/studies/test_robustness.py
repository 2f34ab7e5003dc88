"""The study of all settings: what it says of rows that are known, and how its page shows them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from conftest import walk_weights
from driftline.report import study as page
from driftline.studies import robustness
from driftline.studies.study import run_study


def row(setting: str, seed: int, r2: float, *, linear: bool) -> robustness.InSetting:
    def around(middle: float) -> robustness.SettingR2:
        return robustness.SettingR2(q25=middle - 0.1, median=middle, q75=middle + 0.1)

    return robustness.InSetting(
        group="batch",
        setting=setting,
        seed=seed,
        weights=around(r2),
        null_weights=around(0.5),
        logprobs=around(0.6),
        null_logprobs=around(0.45),
        cosine=0.7,
        skill=0.3,
        linear=linear,
    )


def test_each_setting_is_one_row_of_the_figure_and_one_sentence(tmp_path: Path) -> None:
    rows = [row("small", 0, 0.9, linear=True), row("small", 1, 0.8, linear=True), row("large", 0, 0.55, linear=False)]
    found = robustness.findings(rows)
    assert found[0] == (
        "Drift is told from chance in 2 of 3 runs. The median R² of weights is 0.55 to 0.90 (chance 0.50 to 0.50), of "
        "log-probs 0.60 to 0.60 (chance 0.45 to 0.45)."
    )
    assert len(found) == 3
    assert "batch, small: median R² of weights 0.85 (0.80 to 0.90)" in found[1]
    assert "told from chance in 0 of 1" in found[2]
    record = robustness.RECORD(
        driftline="0", study="robustness", quick=False, runs=[], rows=rows, findings=found * 2, seconds=1.0
    )
    page.write(tmp_path, record, command="driftline study robustness --out d")
    written = (tmp_path / "report.html").read_text()
    assert written.count('<div class="verdict') + written.count('<p class="verdict') == 1  # the other five are a list
    assert len(re.findall(r"<li>(batch|Drift)", written)) == 5
    assert '"ticktext":["batch: small","batch: large"]' in written


def test_any_run_is_measured_by_its_weights(
    make_run: Callable[..., Path], rng: np.random.Generator, tmp_path: Path
) -> None:
    run = make_run(walk_weights(rng, list(range(0, 100, 5)), {"a": (60, 50)}, drift=0.5))
    record = run_study("robustness", tmp_path / "out", runs=[str(run)])
    assert record is not None
    page.write(tmp_path / "out", record, command="driftline study robustness --runs run --out d")
    (found,) = json.loads((tmp_path / "out" / "study.json").read_text())["rows"]
    assert found["linear"] is True
    assert found["weights"]["median"] > found["null_weights"]["median"]
    assert found["logprobs"]["median"] is None
    assert "of log-probs unknown (chance unknown)" in record.findings[0]
    assert "nan" not in record.findings[1]


def test_the_plan_covers_the_papers_groups() -> None:
    plan = robustness.plan(quick=False)
    groups = {label.partition(":")[0] for label in plan}
    rest = "scale, architecture, mixture of experts, task, algorithm, optimizer, learning rate, batch, rollouts"
    assert groups == {"post-training", *rest.split(", ")}
    assert len(plan) == 3 * 20
    assert {settings.seed for settings in plan.values()} == {0, 1, 2}
