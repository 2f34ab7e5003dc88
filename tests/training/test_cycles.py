"""Cycles, their jumps and the guard on a dictionary of small tensors, without a trainer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from msgspec import UNSET

from driftline.checkpoints.jumps import virtual_step
from driftline.errors import InputError
from driftline.forecast.extrapolators import method_named
from driftline.training.cycles import Before, Cycles

TWO_POINT = method_named("two-point")


def weights(step: float) -> dict[str, torch.Tensor]:
    """On a line that is exact in binary."""
    return {"a": torch.full((2, 3), 0.25 * step), "b": torch.full((4,), 1 - 0.5 * step)}


def before(step: float) -> Before:
    return Before(weights(step), {"a": {"exp_avg": torch.tensor([step])}})


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("method", ["two-point", "least-squares", "anchored"])
def test_on_a_line_a_jump_lands_where_training_would(method):
    cycles = Cycles(4, 6, method_named(method), anchors=2 if method == "two-point" else 3)
    cycles.start(0, weights(0))
    assert [step for step in range(5) if cycles.keeps(step)] == ([] if method == "two-point" else [2])
    if cycles.keeps(2):
        cycles.keep(2, weights(2))
    assert [step for step in range(6) if cycles.is_due(step)] == [4, 5]
    values = weights(4)
    jump = cycles.jump(4, values)
    for name, value in weights(10).items():
        torch.testing.assert_close(values[name], value)
    assert (jump.cycle, jump.trained_from, jump.trained_to, jump.projected_to, jump.step) == (1, 0, 4, 10, 4)
    assert (jump.alpha, jump.accepted, jump.method, jump.parameters) == (2.5, True, method, 10)
    assert jump.trained_length is not UNSET
    assert jump.coefficients is not UNSET
    assert jump.trained_length == pytest.approx(np.sqrt(6 * 1.0**2 + 4 * 2.0**2))
    assert jump.jump_length == pytest.approx(1.5 * jump.trained_length, rel=1e-6)
    assert sum(jump.coefficients) == pytest.approx(1)
    assert (cycles.ahead, cycles.jumps) == (6, [jump])
    cycles.start(4, values)
    assert not cycles.is_due(7)
    later = cycles.jump(8, {name: value + weights(14)[name] - weights(10)[name] for name, value in values.items()})
    assert (later.cycle, later.trained_from, later.trained_to, later.projected_to) == (2, 10, 14, 20)


def test_anchors_are_copies():
    values = weights(0)
    cycles = Cycles(1, 1, TWO_POINT)
    cycles.start(0, values)
    for value in values.values():
        value.add_(1.0)
    cycles.jump(1, values)
    assert torch.equal(values["a"], torch.full((2, 3), 2.0))


def test_weights_that_are_not_finite_are_not_projected():
    cycles = Cycles(2, 2, TWO_POINT)
    cycles.start(0, weights(0))
    with pytest.raises(InputError, match="step 2: weights are not finite"):
        cycles.jump(2, weights(2) | {"b": torch.full((4,), float("inf"))})
    assert cycles.jumps == []
    assert cycles.ahead == 0


def guarded(rewards_after: list[float]) -> tuple[Cycles, dict[str, torch.Tensor]]:
    """Steps 1 to 4 with rewards about 1, a jump of 8 on probation at 4, and the rewards after it."""
    cycles, values = Cycles(4, 8, TWO_POINT, window=2), weights(4)
    cycles.start(0, weights(0))
    for step, reward in enumerate((1.0, 1.1, 0.9, 1.0), 1):
        cycles.heed(step, reward)
    assert cycles.jump(4, values, before(4)).accepted is None
    cycles.start(4, values)
    for step, reward in enumerate(rewards_after, 5):
        cycles.heed(step, reward)
    return cycles, values


def test_a_jump_is_judged_when_enough_is_logged():
    cycles, _ = guarded([0.9])
    assert cycles.judge() is None
    assert not cycles.is_due(8)  # on probation
    assert cycles.jumps[0].reward is UNSET
    cycles.heed(6, 1.0)
    assert cycles.judge() is True
    jump = cycles.jumps[0]
    assert jump.accepted is True
    assert jump.reward is not UNSET
    assert (jump.reward.before, jump.reward.after) == (pytest.approx(0.95), pytest.approx(0.95))
    assert jump.reward.standard_error == pytest.approx(np.sqrt(2 * 0.005 / 2))
    assert cycles.reach == 8  # never beyond n
    assert cycles.is_due(8)
    assert cycles.judge() is None  # once


def test_a_fall_is_rolled_back_and_the_next_jumps_are_shorter_until_one_stands():
    cycles, values = guarded([0.1, 0.2])
    assert cycles.judge() is False
    restored = cycles.roll_back(6, values)
    assert same(values, weights(4))
    assert restored.optimizer["a"]["exp_avg"] == 4
    jump = cycles.jumps[0]
    assert (jump.accepted, jump.rolled_back_at) == (False, 6)
    assert cycles.reach == 4
    assert cycles.ahead == -2  # two steps on probation count for nothing
    assert virtual_step(cycles.jumps, 7) == 7 + cycles.ahead
    cycles.start(6, values)
    second = cycles.jump(10, values, before(8))
    assert (second.trained_from, second.trained_to, second.projected_to) == (4, 8, 12)
    cycles.start(10, values)
    for step in (11, 12):
        cycles.heed(step, 2.0)
    assert cycles.judge() is True
    assert cycles.reach == 8


@pytest.mark.parametrize("reward", [None, float("nan"), float("inf")])
def test_rewards_that_are_no_numbers_are_refused(reward):
    with pytest.raises(InputError, match="step 3: the mean reward is"):
        Cycles(4, 4, TWO_POINT).heed(3, reward)


def test_a_restored_state_goes_on_to_the_same(tmp_path):
    """Through a file that holds plain values and tensors only, on probation and after it."""
    whole, values = guarded([0.1])
    torch.save(whole.state(), tmp_path / "state.pt")
    again = Cycles(4, 8, TWO_POINT, window=2)
    again.restore(torch.load(tmp_path / "state.pt", weights_only=True), values)
    ends = []
    for cycles in (whole, again):
        own = {name: value.clone() for name, value in values.items()}
        cycles.heed(6, 0.2)
        assert cycles.judge() is False
        cycles.roll_back(6, own)
        cycles.start(6, own)
        own = {name: value + 1 for name, value in own.items()}
        cycles.jump(10, own)
        ends.append((own, cycles.jumps, cycles.ahead, cycles.reach))
    assert same(ends[0][0], ends[1][0])
    assert ends[0][1:] == ends[1][1:]


def peaked(best: float):
    """A score of the weights that is highest where `weights(best)` are."""
    return lambda values: -abs(float(values["a"][0, 0]) / 0.25 - best)


@pytest.mark.parametrize(
    ("best", "lengths", "taken"),
    [
        (4, [0, 3], 0),  # every jump is worse: none is made
        (7, [0, 3, 6], 3),
        (10, [0, 3, 6, 12], 6),
        (1000, [0, 3, 6, 12], 12),  # never past the last candidate
    ],
)
def test_the_best_of_doubling_lengths_is_taken(best, lengths, taken):
    cycles = Cycles(4, 3, TWO_POINT)
    cycles.start(0, weights(0))
    values, score = weights(4), peaked(best)
    tried = cycles.search(4, values, lambda: score(values), 3)
    assert [one.n for one in tried] == lengths
    assert [one.score for one in tried] == pytest.approx([-abs(4 + n - best) for n in lengths])
    assert cycles.reach == taken
    assert same(values, weights(4))


def test_cycles_may_double_and_go_on_so():
    cycles = Cycles(2, 2, TWO_POINT, doubling=True)
    cycles.start(0, weights(0))
    due = []
    for step in range(1, 15):
        if cycles.is_due(step):
            due.append(step)
            cycles.end()
            cycles.start(step, weights(step))
            saved, cycles = cycles.state(), Cycles(2, 2, TWO_POINT, doubling=True)
            cycles.restore(saved, weights(step))
    assert due == [2, 6, 14]
