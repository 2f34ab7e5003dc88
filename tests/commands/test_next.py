"""What to do next after each command: quoted nowhere, decided from the record."""

from __future__ import annotations

from typing import Any

import pytest

from driftline.commands import next as after


@pytest.mark.parametrize(
    ("space", "better", "surer", "expected"),
    [
        ("weights", True, False, "extrapolate a run --to 150 --method damped --out s-step-150"),
        ("logits", True, False, "evaluate --early r/checkpoint-0 --late r/checkpoint-100 --alpha 1.5 --task sums "
         "--samples 2 --seed 4 --temperature 1 --out s-confirm"),
        ("weights", False, True, "evaluate r/checkpoint-100 --task sums --samples 2 --seed 4 --temperature 0.543 --out s-colder"),
        ("logits", False, False, "backtest a run --out s-backtest"),
    ],
)  # fmt: skip
def test_after_a_sweep(space: str, better: bool, surer: bool, expected: str) -> None:
    record = {
        "space": space, "temperature": 1.0, "seed": 3, "best": {"step": 150, "better": better, "surer": surer},
        "early": {"step": 0, "folder": "r/checkpoint-0"}, "late": {"step": 100, "folder": "r/checkpoint-100"},
        "control": {"late_matched": {"temperature": 0.54321}},
    }  # fmt: skip
    of_task = ["--task", "sums", "--samples", "2"]
    ((_, words),) = after.sweep(record, ["a", "run"], ["--method", "damped"], of_task, "s")
    assert words == ["driftline", *expected.split()]


@pytest.mark.parametrize(("linear", "said"), [(True, "how far ahead"), (False, "little to stand on")])
def test_after_an_analysis(linear: bool, said: str) -> None:
    ((why, words),) = after.analysis({"verdict": {"linear": linear}}, ["my run"], ["--steps", "0:9"], "an out")
    assert said in why
    assert words == [
        "driftline",
        "backtest",
        "my run",
        "--steps",
        "0:9",
        "--analysis",
        "an out",
        "--out",
        "an out-backtest",
    ]


@pytest.mark.parametrize(
    ("horizon", "expected"),
    [(30.0, "extrapolate r --to 130 --method damped --rank 2 --out o-step-130"), (0.0, "watch r --out o-watch")],
)
def test_after_a_backtest(horizon: float, expected: str) -> None:
    record = {"recommended_horizon": horizon, "steps": [0, 100], "best_method": "damped"}
    ((_, words),) = after.backtest(record, ["r"], ["--rank", "2"], "o")
    assert words == ["driftline", *expected.split()]


def test_after_a_comparison_comes_the_most_predictable_run_that_drifts() -> None:
    def row(name: str, skill: float | None, *, linear: bool = True, kind: str = "weights") -> dict[str, Any]:
        return {"linear": linear, "kind": kind, "run": name, "folder": f"{name}-out", "skill": {"damped": skill}}

    rows = [row("a", None), row("b", 0.5), row("c", 0.9, linear=False), row("d", 0.9, kind="logprobs")]
    ((_, words),) = after.comparison({"rows": rows})
    assert words == ["driftline", *["backtest", "b", "--analysis", "b-out", "--out", "b-out-backtest"]]
    assert after.comparison({"rows": rows[2:]}) == []


@pytest.mark.parametrize(
    ("quick", "runs", "expected"),
    [
        (True, [], ["--out", "o-full"]),
        (True, ["my run"], ["--runs", "my run", "--out", "o-full"]),
        (False, [], ["--runs", "RUN", "--out", "o-of-mine"]),
        (False, ["my run"], None),
    ],
)
def test_after_a_study(quick: bool, runs: list[str], expected: list[str] | None) -> None:
    found = after.study({"study": "rank", "quick": quick, "runs": runs}, "o")
    assert [words for _, words in found] == ([["driftline", "study", "rank", *expected]] if expected else [])
