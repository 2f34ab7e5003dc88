"""Re-grounding in a real transformers Trainer: what a jump does, when, that it resumes to the bit, and the guard."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from msgspec import UNSET
from safetensors.torch import load_file
from tiny_trainer import rewarded, tiny_model, trainer, weights
from transformers import TrainerCallback

from driftline.checkpoints.jumps import read_jumps, virtual_step
from driftline.errors import InputError
from driftline.training.monitor import LinearityCallback
from driftline.training.regrounding import RegroundingCallback


class Watch(TrainerCallback):
    """Weights as each step leaves them, before and after callbacks that follow."""

    def __init__(self):
        self.seen = {}

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.seen[state.global_step] = weights(model)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.seen[state.global_step] = weights(model)


def test_a_jump_goes_along_the_line_and_keeps_norm_layers(tmp_path):
    """Until the jump the run is the same as without; at it every weight moves n/m times its own move, norms not at all."""
    plain, trained, jumped = Watch(), Watch(), Watch()
    trainer(tmp_path / "plain", [plain], steps=4).train()
    trainer(tmp_path / "jumped", [jumped, RegroundingCallback(4, 6), trained], steps=4).train()
    base, late = plain.seen[0], plain.seen[4]
    final = load_file(tmp_path / "jumped" / "checkpoint-4" / "model.safetensors")
    moved = 0
    for name, value in final.items():
        if "norm" in name:
            assert torch.equal(value, late[name])
            assert not torch.equal(value, base[name])
        else:
            torch.testing.assert_close(value, base[name] + 2.5 * (late[name] - base[name]), rtol=1e-5, atol=1e-7)
            moved += 1
    assert moved >= 9
    jump = json.loads((tmp_path / "jumped" / "jumps.json").read_text())[0]
    told = {"cycle": 1, "trained_from": 0, "trained_to": 4, "projected_to": 10, "alpha": 2.5, "accepted": True}
    assert {key: jump[key] for key in told} == told
    assert jump["jump_length"] == pytest.approx(1.5 * jump["trained_length"], rel=1e-4)


# after 14 steps with three jumps: how far three tensors moved, the lengths of the jumps, figures of the last log
PINNED = {
    "two-point": (
        [0.2963218688964844, 0.31616848707199097, 0.018771594390273094],
        [0.2645318708916671, 0.1501370160967071, 0.07680346241201762],
        {"r2_mean": 0.7862515449523926, "increment_cosine": 0.25180590784430906, "skill_ahead": -23.93947562199675},
    ),
    "damped": (
        [0.24844709038734436, 0.2639486491680145, 0.01898919977247715],
        [0.17319101978994256, 0.11838039062848014, 0.05354361562991687],
        {"r2_mean": 0.8062251806259155, "increment_cosine": 0.3056446425209582, "skill_ahead": -15.496133044301937},
    ),
}


@pytest.mark.parametrize("method", PINNED)
def test_a_short_training_ends_where_it_always_did(tmp_path, method):
    """Up to the rounding of another machine; with the monitor beside it."""
    moved, lengths, figures = PINNED[method]
    callback = RegroundingCallback(4, 6, method=method)
    made = trainer(tmp_path, [callback, LinearityCallback(regrounding=callback)], steps=14)
    start = weights(made.model)
    made.train()
    end = weights(made.model)
    names = ("model.layers.0.mlp.up_proj.weight", "lm_head.weight", "model.norm.weight")
    assert [float((end[name] - start[name]).norm()) for name in names] == pytest.approx(moved, rel=1e-3)
    assert [jump.jump_length for jump in read_jumps(tmp_path)] == pytest.approx(lengths, rel=1e-3)
    logged = [row for row in made.state.log_history if "loss" in row][-1]
    assert {name: logged[f"linearity/{name}"] for name in figures} == pytest.approx(figures, rel=1e-2)


def test_steps_schedule_and_virtual_step_go_on(tmp_path):
    plain = trainer(tmp_path / "plain", [])
    plain.train()
    made = trainer(tmp_path / "run", [RegroundingCallback(4, 10)])
    made.train()
    rates = [[row["learning_rate"] for row in t.state.log_history if "loss" in row] for t in (plain, made)]
    assert rates[0] == rates[1]
    assert made.state.global_step == 12
    logged = [row["regrounding/virtual_step"] for row in made.state.log_history if "loss" in row]
    assert logged == [1, 2, 3, 14, 15, 16, 17, 28, 29, 30, 31, 42]
    jumps = read_jumps(tmp_path / "run")
    assert [(j.trained_from, j.trained_to, j.projected_to) for j in jumps] == [
        (0, 4, 14),
        (14, 18, 28),
        (28, 32, 42),
    ]
    assert [virtual_step(jumps, step) for step in range(1, 13)] == logged


def test_reporters_that_come_first_see_the_virtual_step(tmp_path):
    class Reporter(TrainerCallback):
        def __init__(self):
            self.rows = []

        def on_log(self, args, state, control, logs=None, **kwargs):
            self.rows.append(dict(logs))

    reporter = Reporter()
    trainer(tmp_path, [reporter, RegroundingCallback(2, 3)], steps=4).train()
    assert [row["regrounding/virtual_step"] for row in reporter.rows][:4] == [1, 5, 6, 10]


@pytest.mark.parametrize("method", ["two-point", "least-squares", "damped", "anchored"])
def test_resumed_runs_end_in_the_same_bits(tmp_path, method):
    """From a checkpoint between jumps, one at a jump, with several anchors in flight."""

    def callback():
        return RegroundingCallback(6, 4, method=method, anchors=2 if method == "two-point" else 4)

    whole = trainer(tmp_path / "whole", [callback()], steps=14, save_steps=2)
    whole.train()
    for step in (4, 6, 10):
        out = tmp_path / f"from-{step}"
        shutil.copytree(tmp_path / "whole", out)
        for later in range(step + 1, 15):
            shutil.rmtree(out / f"checkpoint-{later}", ignore_errors=True)
        again = trainer(out, [callback()], steps=14, save_steps=2, model=tiny_model(seed=5))
        again.train(resume_from_checkpoint=str(out / f"checkpoint-{step}"))
        for name, value in weights(whole.model).items():
            assert torch.equal(value, weights(again.model)[name]), (step, name)
        for one, two in zip(read_jumps(out), read_jumps(tmp_path / "whole"), strict=True):
            one.seconds = two.seconds
            assert one == two


def test_a_checkpoint_without_the_cycles_state_is_refused(tmp_path):
    trainer(tmp_path, [RegroundingCallback(4, 2)], steps=4, save_steps=2).train()
    (tmp_path / "checkpoint-2" / "regrounding.pt").unlink()
    with pytest.raises(InputError, match=r"checkpoint-2/regrounding\.pt is missing"):
        trainer(tmp_path, [RegroundingCallback(4, 2)], steps=4).train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-2")
        )


@pytest.mark.parametrize("treatment", ["keep", "reset", "rescale"])
def test_what_becomes_of_the_optimizer(tmp_path, treatment):
    states: dict[str, list[dict[str, torch.Tensor]]] = {}

    class Look(TrainerCallback):
        def look(self, model, optimizer):
            watched = model.model.layers[0].mlp.up_proj.weight, model.model.norm.weight
            return [{key: value.clone() for key, value in optimizer.state[one].items()} for one in watched]

        def on_optimizer_step(self, args, state, control, model=None, optimizer=None, **kwargs):
            states["before"] = self.look(model, optimizer)

        def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
            states["after"] = self.look(model, optimizer)

    trainer(tmp_path, [RegroundingCallback(4, 4, optimizer=treatment), Look()], steps=4).train()
    (before, norm_before), (after, norm_after) = states["before"], states["after"]
    assert all(torch.equal(norm_before[key], norm_after[key]) for key in norm_before)
    if treatment == "reset":
        assert after == {}
    else:
        factor = 0.5 if treatment == "rescale" else 1.0
        torch.testing.assert_close(after["exp_avg"], factor * before["exp_avg"])
        assert torch.equal(after["exp_avg_sq"], before["exp_avg_sq"])


def test_the_guard_takes_a_bad_jump_back_and_grows_again(tmp_path):
    """The reward falls after the first jump and not after later ones."""
    rng = np.random.default_rng(0)
    noise = 0.01 * rng.standard_normal(100)
    watch = Watch()
    callback = RegroundingCallback(6, 8, accept="reward", window=3)
    made = rewarded(
        trainer(tmp_path, [callback, watch], steps=40), lambda step: noise[step] - (0.5 if 6 < step <= 9 else 0)
    )
    made.train()
    jumps = read_jumps(tmp_path)
    first = jumps[0]
    assert (first.step, first.accepted, first.rolled_back_at) == (6, False, 9)
    assert [jump.projected_to - jump.trained_to for jump in jumps] == [8, 4, 8, 8, 8]
    assert all(jump.accepted for jump in jumps[1:])
    assert first.reward is not UNSET
    assert first.reward.before - first.reward.after == pytest.approx(0.5, abs=0.05)
    assert jumps[1].trained_from == 6  # the steps on probation count for nothing
    assert virtual_step(jumps, 8) is None
    assert virtual_step(jumps, 10) == 7


def test_a_roll_back_restores_weights_and_optimizer(tmp_path):
    """The step after it starts from the weights before the jump: the same as a run that never jumped."""
    callback, after = RegroundingCallback(6, 50, accept="reward", window=2), Watch()
    made = rewarded(
        trainer(
            tmp_path / "run", [callback, after], steps=9, save_steps=8, learning_rate=1e-2, lr_scheduler_type="constant"
        ),
        lambda step: float(step <= 6) + 0.01 * (step % 2),
    )
    made.train()
    plain = Watch()
    trainer(tmp_path / "plain", [plain], steps=9, learning_rate=1e-2, lr_scheduler_type="constant").train()
    saved = load_file(tmp_path / "run" / "checkpoint-8" / "model.safetensors")
    assert read_jumps(tmp_path / "run")[0].rolled_back_at == 8
    for name, value in saved.items():
        assert torch.equal(value, plain.seen[6][name])
    # one step on from there: an Adam step of the same size, in all but the batch the same
    size = torch.cat([(after.seen[9][name] - plain.seen[6][name]).flatten() for name in saved]).norm()
    usual = torch.cat([(plain.seen[7][name] - plain.seen[6][name]).flatten() for name in saved]).norm()
    assert 0.7 < size / usual < 1.4


def test_resuming_while_a_jump_is_on_probation(tmp_path):
    def run(out, **kwargs):
        callback = RegroundingCallback(4, 20, accept="reward", window=3)
        return rewarded(
            trainer(out, [callback], steps=12, save_steps=2, **kwargs), lambda step: 0.01 * (step % 3) - (4 < step <= 7)
        )

    whole = run(tmp_path / "whole")
    whole.train()
    out = tmp_path / "resumed"
    shutil.copytree(tmp_path / "whole", out)
    for step in (8, 10, 12):
        shutil.rmtree(out / f"checkpoint-{step}")
    again = run(out, model=tiny_model(seed=5))
    again.train(resume_from_checkpoint=str(out / "checkpoint-6"))
    assert read_jumps(out)[0].rolled_back_at == 7
    for name, value in weights(whole.model).items():
        assert torch.equal(value, weights(again.model)[name]), name


def test_a_jump_that_could_not_be_judged_is_not_made(tmp_path):
    callback = RegroundingCallback(6, 4, accept="reward", window=3)
    rewarded(trainer(tmp_path, [callback], steps=9), lambda step: 1.0 + 0.1 * (step % 2)).train()
    assert read_jumps(tmp_path) == []


def test_a_reward_that_is_not_a_number_stops_the_run(tmp_path):
    made = rewarded(
        trainer(tmp_path, [RegroundingCallback(4, 4)], save_steps=2), lambda step: float("nan") if step == 3 else 1.0
    )
    with pytest.raises(InputError, match="step 3: the mean reward is nan"):
        made.train()
    assert (tmp_path / "checkpoint-2" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"m": 0, "n": 5}, "m=0"),
        ({"m": 5, "n": -1}, "n=-1"),
        ({"m": 5, "n": 5, "method": "relex"}, "method='relex': choose two-point"),
        ({"m": 5, "n": 5, "optimizer": "drop"}, "optimizer='drop'"),
        ({"m": 5, "n": 5, "accept": "maybe"}, "accept='maybe'"),
        ({"m": 5, "n": 5, "anchors": 7}, "anchors=7: 5 steps have 2 to 6"),
        ({"m": 5, "n": 5, "window": 1}, "window=1"),
        ({"m": 5, "n": 5, "adapters": "factors"}, "adapters='factors': choose refuse, product"),
        ({"m": 5, "n": 5, "adapters": "product", "method": "damped"}, "fitted to factors"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, complaint):
    with pytest.raises(InputError, match=complaint):
        RegroundingCallback(**settings)


def test_trainers_and_models_that_cannot_work_are_refused(tmp_path):
    def complaint(callback, model=None, **settings):
        with pytest.raises(InputError) as caught:
            trainer(tmp_path, [callback], model=model, **settings).train()
        return str(caught.value)

    with_adapter = tiny_model()
    with_adapter.model.layers[0].self_attn.q_proj.lora_A = torch.nn.Parameter(torch.zeros(2, 16))
    assert "line through their product" in complaint(RegroundingCallback(4, 4), model=with_adapter)
    assert "every trainable parameter is kept by *" in complaint(RegroundingCallback(4, 4, keep=("*",)))
    guarded = RegroundingCallback(4, 4, accept="reward")
    assert "divisor of m=4" in complaint(guarded, logging_steps=3)
    assert "not less than m=4" in complaint(guarded)
    assert not (tmp_path / "jumps.json").exists()


def run_by_hand(model, folder, callback):
    """Four steps and a jump without a trainer, for models that it cannot wrap here."""
    args = SimpleNamespace(output_dir=str(folder), gradient_accumulation_steps=1, save_only_model=False)
    state = SimpleNamespace(global_step=0, max_steps=9, is_world_process_zero=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    callback.on_train_begin(args, state, None, model=model, optimizer=optimizer)
    ids = (torch.arange(8) % 14 + 2)[None]
    for _ in range(5):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        state.global_step += 1
        callback.on_step_end(args, state, None, model=model, optimizer=optimizer)
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["two-point", "damped"])
def test_sharded_weights_jump_as_whole_ones_do(tmp_path, method):
    """FSDP2, whose parameters are DTensors, in a group of one process."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    whole = run_by_hand(tiny_model(), tmp_path, RegroundingCallback(4, 6, method=method))
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = tiny_model()
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        run_by_hand(model, tmp_path, RegroundingCallback(4, 6, method=method))
        assert hasattr(model.lm_head.weight, "full_tensor")
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(
                parameter.full_tensor(), dict(whole.named_parameters())[name], rtol=1e-5, atol=1e-6
            )
    finally:
        torch.distributed.destroy_process_group()


def test_the_best_length_on_a_validation_set_is_jumped_and_told(tmp_path):
    """The score peaks at a known place along the line; the jump that lands nearest is made, and where none helps, none."""
    plain = Watch()
    trainer(tmp_path / "plain", [plain], steps=4).train()
    name = next(name for name in plain.seen[4] if "norm" not in name)
    goal = plain.seen[0][name] + 2.5 * (plain.seen[4][name] - plain.seen[0][name])  # 6 steps beyond the fourth

    def validate(model):
        return -float((weights(model)[name] - goal).norm())

    jumped = RegroundingCallback(4, 3, accept="validation", validate=validate)
    after = Watch()
    trainer(tmp_path / "jumped", [jumped, after], steps=4).train()
    (jump,) = read_jumps(tmp_path / "jumped")
    assert jump.tried
    assert [one.n for one in jump.tried] == [0, 3, 6, 12]
    assert jump.projected_to == 10
    torch.testing.assert_close(after.seen[4][name], goal, rtol=1e-5, atol=1e-7)
    still = Watch()
    trainer(tmp_path / "still", [RegroundingCallback(4, 3, accept="validation", validate=lambda _: 0.0), still]).train()
    assert read_jumps(tmp_path / "still") == []
    untouched = Watch()
    trainer(tmp_path / "none", [untouched]).train()
    assert all(torch.equal(value, untouched.seen[12][key]) for key, value in still.seen[12].items())


def test_a_search_needs_its_score_and_a_score_its_search():
    for given in ({"accept": "validation"}, {"validate": lambda model: 0.0}):
        with pytest.raises(InputError, match="give both or neither"):
            RegroundingCallback(4, 3, **given)
