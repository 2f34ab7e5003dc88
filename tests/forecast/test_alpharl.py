"""AlphaRL on runs whose updates are rank 1 by construction, and its refusals."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from driftline import InputError, open_trajectory
from driftline.forecast.request import ForecastRequest
from driftline.writing.extrapolate import extrapolate
from driftline.writing.storage import Storage

MakeRun = Callable[..., Path]
MATRIX, NORM, EMBEDDING = "model.layers.0.up.weight", "model.layers.0.norm.weight", "model.embed_tokens.weight"
SCORES = {0: 0.2, 10: 0.3, 20: 0.45, 30: 0.5, 40: 0.62}


@pytest.fixture
def run(make_run: MakeRun, rng: np.random.Generator) -> Path:
    """The matrix moves by (score - 0.2) along one rank-1 direction; the rest walks."""
    start, u, v = rng.standard_normal((12, 9)), rng.standard_normal(12), rng.standard_normal(9)
    return make_run(
        {
            step: {
                MATRIX: start + (score - 0.2) * np.outer(u, v),
                NORM: np.ones(9) + step,
                EMBEDDING: np.full((5, 9), float(step)),
            }
            for step, score in SCORES.items()
        }
    )


def write_scores(tmp_path: Path, scores: object) -> Path:
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    return tmp_path / "scores.json"


def test_a_rank_one_run_is_rebuilt_at_any_score(run: Path, tmp_path: Path) -> None:
    scores = write_scores(tmp_path, {step: score for step, score in SCORES.items() if step})
    request = ForecastRequest(method="alpharl", scores=scores, target_score=0.9)
    outcome = extrapolate(open_trajectory(run), tmp_path / "out", request, Storage())
    found = load_file(tmp_path / "out" / "model.safetensors")
    first, last = (load_file(run / f"checkpoint-{step}" / "model.safetensors") for step in (0, 40))
    expected = first[MATRIX] + (0.9 - 0.2) / (0.62 - 0.2) * (last[MATRIX] - first[MATRIX])
    np.testing.assert_allclose(found[MATRIX], expected, atol=1e-4)
    np.testing.assert_array_equal(found[NORM], last[NORM])
    np.testing.assert_array_equal(found[EMBEDDING], last[EMBEDDING])
    record = outcome.records[0]
    assert record["by_rule"] == [MATRIX]
    assert record["scores"]["40"] == 0.62
    assert (tmp_path / "out" / "README.md").read_text().count("Forecast at score 0.9") == 1


def test_only_the_leading_direction_of_each_update_is_used(
    make_run: MakeRun, rng: np.random.Generator, tmp_path: Path
) -> None:
    """What the weaker second direction did to the weights does not come back."""
    u, v = np.linalg.qr(rng.standard_normal((12, 12)))[0], np.linalg.qr(rng.standard_normal((9, 9)))[0]
    strong, weak = np.outer(u[0], v[0]), np.outer(u[1], v[1])
    run = make_run({step: {MATRIX: score * strong + 0.1 * score * weak} for step, score in {**SCORES, 0: 0.0}.items()})
    scores = write_scores(tmp_path, SCORES)
    extrapolate(
        open_trajectory(run), tmp_path / "out", ForecastRequest(method="alpharl", scores=scores, target_score=0.8)
    )
    found = load_file(tmp_path / "out" / "model.safetensors")[MATRIX]
    np.testing.assert_allclose(found, 0.8 * strong, atol=1e-5)


@pytest.mark.parametrize(
    ("scores", "target", "complaint"),
    [
        ({10: 0.3, 20: 0.4, 40: 0.5}, 0.9, "has no score for step 30"),
        (dict.fromkeys(SCORES, 0.5), 0.9, "1 different scores; it takes 3 checkpoints whose scores vary"),
        ([1, 2], 0.9, "is not a JSON object of step to score"),
        ({"a": 1}, 0.9, "is not a JSON object of step to score"),
        (SCORES, float("nan"), "--target-score nan is not a finite number"),
        (SCORES, None, "needs --scores FILE"),
    ],
)
def test_bad_scores_are_refused(
    run: Path, tmp_path: Path, scores: object, target: float | None, complaint: str
) -> None:
    request = ForecastRequest(method="alpharl", scores=write_scores(tmp_path, scores), target_score=target)
    with pytest.raises(InputError, match=complaint):
        extrapolate(open_trajectory(run), tmp_path / "out", request)
    assert not (tmp_path / "out").exists()


def test_a_step_is_no_target_for_it(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="alpharl aims at a score: give --scores FILE and --target-score"):
        extrapolate(open_trajectory(run), tmp_path / "out", ForecastRequest((90,), "alpharl"))
