"""jumps.json: written in one piece, read with suspicion, and what it makes of the checkpoints' steps."""

from __future__ import annotations

import json

import msgspec
import pytest
from msgspec import UNSET

from driftline.checkpoints.jumps import Jump, read_jumps, regrounded, virtual_step, write_jumps
from driftline.errors import InputError


def jump(cycle: int, step: int, start: int, end: int, to: int, back: int | None = None) -> Jump:
    return Jump(
        cycle=cycle,
        trained_from=start,
        trained_to=end,
        projected_to=to,
        alpha=(to - start) / (end - start),
        accepted=back is None,
        step=step,
        rolled_back_at=back,
    )


# 10 steps, 20 ahead; 10 more, 20 ahead but back after 4; 10 more, 10 ahead
JUMPS = [jump(1, 10, 0, 10, 30), jump(2, 20, 30, 40, 60, back=24), jump(3, 34, 40, 50, 60)]


def test_virtual_steps_count_what_was_projected_and_not_taken_back():
    told = {0: 0, 9: 9, 10: 30, 19: 39, 20: None, 23: None, 24: 40, 25: 41, 33: 49, 34: 60, 40: 66}
    assert {step: virtual_step(JUMPS, step) for step in told} == told


def test_a_run_is_cut_where_it_jumped(tmp_path):
    write_jumps(tmp_path, JUMPS)
    assert read_jumps(tmp_path) == JUMPS
    assert [path.name for path in tmp_path.iterdir()] == ["jumps.json"]
    found = regrounded(read_jumps(tmp_path), range(0, 41, 4))
    assert found is not None
    assert found.virtual == {0: 0, 4: 4, 8: 8, 12: 32, 16: 36, 24: 40, 28: 44, 32: 48, 36: 62, 40: 66}
    assert list(found.discarded) == [20]
    assert found.stretches == [[0, 4, 8], [12, 16], [24, 28, 32], [36, 40]]
    assert "left out: 1" in found.sentence
    assert regrounded(read_jumps(tmp_path), [0, 4, 8]) is None  # before the first jump


def test_runs_without_jumps_and_damaged_files(tmp_path):
    assert read_jumps(tmp_path) == []
    assert regrounded([], [0, 10]) is None
    first, second = msgspec.to_builtins(JUMPS[:2])
    texts = ["{", '{"cycle": 1}', '[{"cycle": 1}]']
    texts += [json.dumps([first | {key: None}]) for key in ("step", "trained_to", "projected_to")]
    texts += [json.dumps([first | {"step": bad}]) for bad in (True, 10**15, -1e15, float("nan"))]
    texts += [json.dumps([second | {"rolled_back_at": bad}]) for bad in ("24", float("inf"), [1])]
    for text in texts:
        (tmp_path / "jumps.json").write_text(text)
        with pytest.raises(InputError, match=r"jumps\.json"):
            read_jumps(tmp_path)


def test_a_jump_follows_those_before_it():
    after = Jump.after(JUMPS, 66, 70, 6, accepted=None)
    assert (after.cycle, after.trained_from, after.trained_to, after.projected_to) == (4, 66, 70, 76)
    assert (after.alpha, after.accepted, after.step, after.taken_back_at) == (2.5, None, UNSET, None)


CALLBACK = {
    "cycle": 1,
    "trained_from": 0,
    "trained_to": 6,
    "projected_to": 12,
    "alpha": 2.0,
    "accepted": False,
    "step": 6,
    "rolled_back_at": 8,
    "method": "two-point",
    "coefficients": [-1.0, 2.0],
    "trained_length": 0.25,
    "jump_length": 0.25,
    "parameters": 3584,
    "lora_discarded": 0.0,
    "seconds": 0.001,
    "reward": {"before": 1.0, "after": 0.0, "standard_error": 0.0625},
}
COMMAND = {
    "cycle": 1,
    "trained_from": 0,
    "trained_to": 4,
    "projected_to": 16,
    "alpha": 4.0,
    "accepted": True,
    "model": "base",
    "checkpoint": "out/cycle-1/trained/checkpoint-4",
    "projected": "out/cycle-1/projected",
    "seconds_trained": 0.5,
    "seconds_projected": 0.125,
}


@pytest.mark.parametrize("record", [CALLBACK, COMMAND])
def test_records_keep_their_keys_their_order_and_what_is_absent(tmp_path, record):
    """As release 0.1.0 wrote them, read and written again to the same text."""
    text = json.dumps([record], indent=2) + "\n"
    (tmp_path / "jumps.json").write_text(text)
    write_jumps(tmp_path, read_jumps(tmp_path))
    assert (tmp_path / "jumps.json").read_text() == text


def test_keys_of_later_releases_do_not_matter(tmp_path):
    (tmp_path / "jumps.json").write_text(json.dumps([COMMAND | {"weather": "fair"}]))
    assert read_jumps(tmp_path)[0].projected_to == 16
