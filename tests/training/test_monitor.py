"""The monitor in a real Trainer beside the scan of its checkpoints, its clock, its resume; and its sample."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from tiny_trainer import tiny_model, trainer, weights
from transformers import TrainerCallback

from driftline import open_trajectory, scan
from driftline.errors import InputError
from driftline.linearity import null, statistics
from driftline.training.monitor import LinearityCallback, positions
from driftline.training.regrounding import RegroundingCallback
from driftline.watching.collapse import skills_ahead


def linearity(made) -> list[dict[str, float]]:
    rows = [row for row in made.state.log_history if "loss" in row]
    return [{key: value for key, value in row.items() if key.startswith("linearity/")} for row in rows]


def test_figures_are_those_of_the_checkpoints(tmp_path):
    """Every parameter followed, every step logged and saved: the figures of a scan of the run's folder."""
    callback = LinearityCallback()
    made = trainer(tmp_path, [callback], steps=9, save_steps=1, learning_rate=3e-3)  # a step at which R² is had
    from safetensors.torch import save_file

    start = tmp_path / "checkpoint-0"
    start.mkdir()
    save_file(weights(made.model), start / "model.safetensors")
    (start / "config.json").write_text("{}")
    made.train()
    trajectory = open_trajectory(tmp_path)
    scans = list(scan(trajectory, clock=np.arange(10.0)))
    gram = np.sum([tensor.gram for tensor in scans], axis=0)
    logged = linearity(made)[-1]
    steps = np.arange(10.0)
    assert (
        "linearity/increment_cosine" not in logged
    )  # ten steps lie within the optimizer's memory: it would be momentum
    walk = null.matched_gram(steps, 0.9, np.sqrt(np.diag(statistics.increments_gram(gram))))
    chance_growth = statistics.growth_exponent(walk, steps)[0]
    assert logged["linearity/null_growth_exponent"] == pytest.approx(chance_growth, abs=1e-4)
    assert logged["linearity/growth_exponent"] == pytest.approx(statistics.growth_exponent(gram, steps)[0], abs=1e-4)
    assert logged["linearity/skill_ahead"] == pytest.approx(skills_ahead(gram, steps)[-3:].mean(), rel=1e-3)
    counts = np.array([tensor.populations[0].count for tensor in scans])
    means = np.array([tensor.populations[0].mean_r2 for tensor in scans])
    assert logged["linearity/r2_mean"] == pytest.approx(means @ counts / counts.sum(), abs=1e-3)
    lengths = np.sqrt(np.diag(statistics.increments_gram(gram)))
    chance = null.null_r2(steps, steps, 0.9, lengths=lengths).mean_r2  # about .7: with momentum; .44 without
    assert logged["linearity/null_r2_mean"] == pytest.approx(chance, abs=0.02)
    assert logged["linearity/direction_lost"] == 0
    assert "linearity/recommended_horizon" in logged


def test_reporters_that_come_first_see_the_figures(tmp_path):
    class Reporter(TrainerCallback):
        rows: list[dict] = []  # noqa: RUF012

        def on_log(self, args, state, control, logs=None, **kwargs):
            self.rows.append(dict(logs))

    trainer(tmp_path, [Reporter(), LinearityCallback()], steps=5).train()
    assert "linearity/growth_exponent" in Reporter.rows[4]
    assert "linearity/r2_mean" not in Reporter.rows[-1]  # the summary at the end is no training log


def test_a_resumed_run_reports_the_same(tmp_path):
    whole = trainer(tmp_path / "whole", [LinearityCallback(rows=16)], steps=22, save_steps=11)
    whole.train()
    out = tmp_path / "resumed"
    shutil.copytree(tmp_path / "whole", out)
    shutil.rmtree(out / "checkpoint-22")
    again = trainer(out, [LinearityCallback(rows=16)], steps=22, save_steps=11, model=tiny_model(5))
    again.train(resume_from_checkpoint=str(out / "checkpoint-11"))
    assert linearity(again)[11:] == linearity(whole)[11:]
    (out / "checkpoint-11" / "linearity.pt").write_bytes(b"no")
    fresh = trainer(out, [LinearityCallback()], steps=15, save_steps=11, model=tiny_model(5))
    fresh.train(resume_from_checkpoint=str(out / "checkpoint-11"))  # it never stops a run
    assert "linearity/growth_exponent" not in linearity(fresh)[12]
    assert "linearity/growth_exponent" in linearity(fresh)[14]


def test_the_virtual_step_is_the_clock_of_a_run_with_jumps(tmp_path):
    """Straight but for training's own noise: a jump that counted as one step would bend it."""
    jumps = RegroundingCallback(4, 8, keep=())
    callback = LinearityCallback(regrounding=jumps)
    trainer(tmp_path, [jumps, callback], steps=8).train()
    assert callback._run.steps == [0, 1, 2, 3, 12, 13, 14, 15, 24]


def test_samples_are_spread_seeded_and_distinct():
    values = {"a": torch.zeros(1000, 90), "b": torch.zeros(10_000), "c": torch.zeros(1)}
    found = positions(values, 1000, seed=1)
    assert {name: len(where) for name, where in found.items()} == {"a": 900, "b": 100, "c": 1}
    assert all(len(where.unique()) == len(where) for where in found.values())
    assert found["a"].max() > 89_000
    assert torch.equal(found["a"], positions(values, 1000, seed=1)["a"])
    assert not torch.equal(found["a"], positions(values, 1000, seed=2)["a"])
    with pytest.raises(InputError, match="nothing to monitor"):
        positions({}, 10, 0)
    with pytest.raises(InputError, match="rows=3"):
        LinearityCallback(rows=3)


@pytest.mark.parametrize(
    ("settings", "beta1"),
    [
        ({"adam_beta1": 0.95}, 0.95),
        ({"optim": "sgd", "optim_args": "momentum=0.8"}, 0.8),
        ({"optim": "sgd"}, 0.0),
        ({"optim": "adafactor"}, 0.0),
        ({"optim": "rmsprop", "optim_args": "momentum=0.7"}, 0.7),
    ],
)
def test_chance_has_the_momentum_of_the_trainers_optimizer(tmp_path, settings, beta1):
    callback = LinearityCallback()
    made = trainer(tmp_path, [callback], steps=9, **settings)
    made.train()
    assert callback._figures.beta1 == beta1


@pytest.mark.parametrize(
    ("settings", "beta1", "said"),
    [
        ({"optim": "lion_32bit", "adam_beta2": 0.98}, 0.98, 0),
        ({"optim": "paged_lion_8bit", "adam_beta2": 0.97}, 0.97, 0),
        ({"optim": "ademamix"}, 0.9999, 0),
        ({"optim": "rmsprop_bnb"}, 0.0, 0),
        ({"optim": "schedule_free_adamw"}, 0.9, 1),
    ],
)
def test_an_optimizer_that_is_only_named_is_known_and_an_unknown_one_is_warned_of(
    tmp_path, caplog, settings, beta1, said
):
    made = trainer(tmp_path, [], **settings)
    callback = LinearityCallback()
    callback.on_train_begin(made.args, made.state, made.control, model=made.model)
    assert callback._figures.beta1 == beta1
    assert sum("beta1 is taken to be" in record.message for record in caplog.records) == said


def test_the_users_word_on_momentum_comes_first(tmp_path):
    made = trainer(tmp_path, [], optim="sgd")
    callback = LinearityCallback(beta1=0.97)
    callback.on_train_begin(made.args, made.state, made.control, model=made.model)
    assert callback._figures.beta1 == 0.97
    with pytest.raises(InputError, match="beta1=1"):
        LinearityCallback(beta1=1.0)
