"""Choosing a forecast by log-probs, on runs of a real small model."""

import json
from pathlib import Path

import pytest

from driftline import InputError, open_trajectory
from driftline.api import extrapolate
from driftline.lab import model as lab_model

torch = pytest.importorskip("torch")

STEPS = [0, 10, 20, 30, 40, 50, 60, 70]


def make_run(folder: Path, drift: float, noise: float) -> Path:
    """The lab's base moved along one direction, and by a random walk."""
    model, tokenizer = lab_model.load(lab_model.shipped_base())
    torch.manual_seed(0)
    state = {name: value.clone() for name, value in model.state_dict().items() if name != "lm_head.weight"}
    direction = {name: torch.randn_like(value) for name, value in state.items()}
    for step in STEPS:
        model.load_state_dict(state, strict=False)
        model.save_pretrained(folder / f"checkpoint-{step}")
        state = {n: v + drift * direction[n] + noise * torch.randn_like(v) for n, v in state.items()}
    tokenizer.save_pretrained(folder / f"checkpoint-{STEPS[-1]}")
    return folder


@pytest.fixture
def rollouts(tmp_path: Path) -> Path:
    rows = [
        {"prompt": f"{a}+{b}+10=", "response": f"{a + b};{a + b + 10}#{a + b + 10}"}
        for a in range(20, 30)
        for b in range(30, 40)
    ]
    path = tmp_path / "rollouts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_a_straight_run_is_forecast_by_the_method_nearest_in_log_probs(tmp_path: Path, rollouts: Path) -> None:
    run = make_run(tmp_path / "run", drift=1e-3, noise=1e-4)
    before = set(tmp_path.iterdir())
    outcome = extrapolate(open_trajectory(run), tmp_path / "out", to=90, rollouts=rollouts)
    record = outcome.records[0]
    scores = record["skill_in_logprobs"]
    assert max(scores.values()) > 0.8
    assert outcome.sentence.startswith(max(scores, key=lambda name: scores[name]))
    assert "20 steps ahead" in outcome.sentence
    assert not outcome.warning
    assert set(tmp_path.iterdir()) - before == {tmp_path / "out"}
    far = extrapolate(open_trajectory(run), tmp_path / "far", to=5000, rollouts=rollouts)
    assert far.warning
    assert far.records[0]["reached"] == 120  # what could be tested: 50 steps, with three checkpoints seen


def test_a_run_without_direction_is_held(tmp_path: Path, rollouts: Path) -> None:
    run = make_run(tmp_path / "run", drift=0.0, noise=1e-3)
    outcome = extrapolate(open_trajectory(run), tmp_path / "out", to=90, rollouts=rollouts)
    assert outcome.warning
    assert outcome.records[0]["method"] == "hold"
    assert "so the model written is that of step 70, unchanged" in outcome.sentence


def test_rollouts_belong_to_auto(tmp_path: Path, rollouts: Path) -> None:
    run = make_run(tmp_path / "run", drift=1e-3, noise=1e-4)
    with pytest.raises(InputError, match="--rollouts is what --method auto scores forecasts by"):
        extrapolate(open_trajectory(run), tmp_path / "out", to=90, method="blup", rollouts=rollouts)
    with pytest.raises(InputError, match="3 checkpoints: scoring forecasts by --rollouts needs 4"):
        extrapolate(open_trajectory(run, steps="0:20"), tmp_path / "out", to=90, rollouts=rollouts)
