"""The base that the model card names."""

from pathlib import Path

import numpy as np
import pytest
from small_runs import SHAPES, STEPS, MakeRun

from conftest import walk_weights
from driftline import open_trajectory
from driftline.writing.card import base_model


@pytest.fixture
def run(make_run: MakeRun, rng: np.random.Generator) -> Path:
    return make_run(walk_weights(rng, STEPS, SHAPES, drift=0.3))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("checkpoint-90/adapter_config.json", '{"base_model_name_or_path": "org/base"}'),
        ("checkpoint-90/README.md", "---\nlibrary_name: peft\nbase_model: org/base\ntags:\n- trl\n---\n\n# A\n"),
        ("README.md", '---\nbase_model: "org/base"\nlicence: x\n---\n'),
    ],
)
def test_the_card_names_the_base_that_the_trainer_noted(run: Path, file: str, content: str) -> None:
    assert base_model(open_trajectory(run)) is None
    (run / file).write_text(content)
    assert base_model(open_trajectory(run)) == "org/base"


@pytest.mark.parametrize(
    "card",
    [
        "base_model: org/base\n",
        "---\nbase_model: None\n---\n",
        "---\nx: 1\n---\nbase_model: org/base\n",
        "---\nbase_model: ../../etc\n---\n",
        "---\nbase_model: a/b/c\n---\n",
    ],
)
def test_what_is_no_name_of_the_hub_is_not_taken_for_one(run: Path, card: str) -> None:
    (run / "README.md").write_text(card)
    assert base_model(open_trajectory(run)) is None
