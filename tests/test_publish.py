"""Uploading a forecast and logging results, against stand-ins for the Hub and for trackers: no network, no account."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import ModelCard
from huggingface_hub.errors import LocalTokenNotFoundError

import driftline
from conftest import walk_weights
from driftline.evaluation.records import Scored

MakeRun = Callable[..., Path]


class Hub:
    """Stands in for `HfApi`: remembers what it was asked, knows one repository."""

    endpoint = "https://hub.example"
    calls: list[tuple[str, dict[str, Any]]]

    def __init__(self, token: str | None = None) -> None:
        self.token = token

    def repo_exists(self, repo_id: str) -> bool:
        return repo_id == "me/there"

    def create_repo(self, repo_id: str, **options: Any) -> None:
        if repo_id == "else/where":
            raise LocalTokenNotFoundError("no token")
        self.calls.append(("create", {"repo_id": repo_id, **options}))

    def upload_folder(self, **options: Any) -> None:
        self.calls.append(("upload", options))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[Hub]:
    Hub.calls = []
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    return Hub


@pytest.fixture
def model(make_run: MakeRun, rng: np.random.Generator, tmp_path: Path) -> Path:
    run = make_run(walk_weights(rng, [0, 10, 20], {"layers.0.w": (8, 8)}, drift=1.0))
    driftline.extrapolate(driftline.open_trajectory(run), tmp_path / "model", to=40, method="two-point")
    return tmp_path / "model"


def test_a_forecast_is_uploaded_private_and_whole(hub: type[Hub], model: Path) -> None:
    assert driftline.push(model, "me/forecast") == "https://hub.example/me/forecast"
    (first, created), (second, uploaded) = hub.calls
    assert (first, second) == ("create", "upload")
    assert created == {"repo_id": "me/forecast", "private": True, "exist_ok": False}
    assert uploaded["folder_path"] == model
    assert uploaded["commit_message"].startswith("two-point forecast of 40")


def test_the_card_names_base_and_recipe_as_the_hub_reads_them(hub: type[Hub], model: Path) -> None:
    driftline.push(model, "me/forecast", base_model="org/base")
    card = ModelCard.load(model / "README.md")
    assert card.data.base_model == "org/base"
    assert card.data.to_dict()["base_model_relation"] == "finetune"
    assert {"driftline", "extrapolated"} <= set(card.data.tags)
    recipe = card.data.to_dict()["driftline"]
    assert recipe["method"] == "two-point"
    assert recipe["target"] == 40
    assert recipe["alpha"] == 2
    assert "These weights were not trained" in card.text


def test_what_exists_is_left_alone_unless_asked(hub: type[Hub], model: Path) -> None:
    with pytest.raises(driftline.InputError, match="me/there exists: choose another name, or give existing=True"):
        driftline.push(model, "me/there")
    assert hub.calls == []
    driftline.push(model, "me/there", existing=True)
    assert [name for name, _ in hub.calls] == ["create", "upload"]


def test_refusals_are_sentences(hub: type[Hub], model: Path, tmp_path: Path) -> None:
    with pytest.raises(driftline.InputError, match="else/where: the Hub knows you by a token: run hf auth login"):
        driftline.push(model, "else/where")
    with pytest.raises(driftline.InputError, match="holds no forecast model"):
        driftline.push(tmp_path, "me/forecast")


class Tracker:
    """A run of W&B or trackio: `log(dict, step=)`."""

    def __init__(self) -> None:
        self.logged: list[tuple[dict[str, float], int | None]] = []

    def log(self, values: dict[str, float], step: int | None = None) -> None:
        self.logged.append((values, step))


class Writer:
    """TensorBoard's `SummaryWriter`: one scalar at a time."""

    def __init__(self) -> None:
        self.scalars: dict[str, tuple[float, int]] = {}

    def add_scalar(self, name: str, value: float, global_step: int) -> None:
        self.scalars[name] = (value, global_step)

    def flush(self) -> None:
        self.flushed = True


@pytest.fixture
def result(tmp_path: Path) -> Path:
    summary = {
        "kind": "weights",
        "steps": [0, 10],
        "r2": {"median": 0.9, "share_above_0.7": None},
        "drift": {"noise_to_drift": float("inf")},
        "verdict": {"linear": True, "sentence": "Linear"},
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    return tmp_path


def test_every_finite_number_is_logged_under_its_path(result: Path) -> None:
    expected = {"driftline/r2/median": 0.9, "driftline/verdict/linear": 1.0}
    assert driftline.scalars(result) == expected
    tracker, writer = Tracker(), Writer()
    driftline.log_results(result, tracker, step=7)
    driftline.log_results(result / "summary.json", writer, step=7)
    assert tracker.logged == [(expected, 7)]
    assert writer.scalars == {name: (value, 7) for name, value in expected.items()}
    assert writer.flushed


def test_a_record_is_logged_by_the_keys_of_its_json() -> None:
    figures: dict[str, Any] = {
        "avg_at_k": 0.5,
        "interval": [0.4, 0.6],
        "pass_at_k": {"1": 0.5},
        "pass_at_k_interval": {"1": [0.4, 0.6]},
    }
    record = Scored(step=10, problems=8, **figures, response_tokens=3.0, truncated=0.0, mean_score=0.5)
    logged = driftline.scalars(record)
    assert logged == {
        "driftline/avg@k": 0.5,
        "driftline/pass@k/1": 0.5,
        "driftline/response_tokens": 3.0,
        "driftline/truncated": 0.0,
        "driftline/mean_score": 0.5,
        "driftline/step": 10.0,
        "driftline/problems": 8.0,
    }


def test_what_cannot_be_logged_is_said(result: Path, tmp_path: Path) -> None:
    with pytest.raises(driftline.InputError, match="object has neither log nor add_scalar"):
        driftline.log_results(result, object())
    (tmp_path / "empty").mkdir()
    with pytest.raises(driftline.InputError, match="holds no result: give a folder"):
        driftline.scalars(tmp_path / "empty")
