"""NExt on runs whose next change is known; its parts against torch and numpy; what it refuses and what it never sees."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from conftest import walk_weights
from driftline import InputError, open_trajectory
from driftline.forecast.lessons import changes, lesson
from driftline.forecast.moves import trials, try_next
from driftline.forecast.networks import Network, Training, adamw
from driftline.forecast.nonlinear import predict
from driftline.forecast.observations import observe
from driftline.forecast.rank_one import RankOne, leading
from driftline.forecast.request import ForecastRequest
from driftline.writing.extrapolate import WrittenForecasts, extrapolate
from driftline.writing.storage import Storage

MakeRun = Callable[..., Path]
UP, DOWN, NORM = "model.layers.0.up.weight", "model.layers.0.down.weight", "model.layers.0.norm.weight"
EMBEDDING = "model.embed_tokens.weight"
STEPS = list(range(0, 100, 10))
SHAPES = {UP: (24, 16), DOWN: (16, 24)}


def straight(steps: list[int]) -> dict[int, dict[str, np.ndarray]]:
    """Each matrix goes along one rank-1 direction, by as much in every step."""
    rng = np.random.default_rng(3)
    start = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    move = {name: 1e-3 * np.outer(rng.standard_normal(m), rng.standard_normal(n)) for name, (m, n) in SHAPES.items()}
    return {
        step: {name: start[name] + step * move[name] for name in SHAPES}
        | {NORM: np.ones(9) + step, EMBEDDING: np.full((5, 9), float(step))}
        for step in steps
    }


def forecast(run: Path, out: Path, target: int, seed: int = 0) -> WrittenForecasts:
    return extrapolate(open_trajectory(run), out, ForecastRequest((target,), "next", seed=seed), Storage(keep=()))


def test_a_rank_one_run_on_a_line_is_carried_on(make_run: MakeRun, tmp_path: Path) -> None:
    """As far ahead as it learned, and twice as far as any three origins look; within a twentieth of the change."""
    truth = straight([*STEPS, 120, 210])
    run = make_run({step: truth[step] for step in STEPS})
    for target, ahead, times in ((120, 30, 1.0), (210, 60, 2.0)):
        outcome = forecast(run, tmp_path / str(target), target)
        found = load_file(tmp_path / str(target) / "model.safetensors")
        for name in SHAPES:
            missed = np.linalg.norm(found[name] - truth[target][name])
            assert missed < 0.05 * np.linalg.norm(truth[target][name] - truth[90][name])
        for name in (NORM, EMBEDDING):
            np.testing.assert_array_equal(found[name], truth[90][name].astype(np.float32))
        record = outcome.records[0]
        assert record["by_rule"] == [DOWN, UP] or record["by_rule"] == [UP, DOWN]
        assert (record["networks"].ahead, record["networks"].times) == (ahead, times)
        assert record["networks"].origins == [step for step in STEPS[1:] if step + ahead <= 90]
        assert f"origins that look {ahead} steps ahead" in outcome.sentence
    told = json.loads((tmp_path / "210" / "driftline.json").read_text())["networks"]
    assert told["seed"] == 0
    assert told["width"] == 256


def test_equal_seeds_give_equal_bytes_and_others_not(
    make_run: MakeRun, rng: np.random.Generator, tmp_path: Path
) -> None:
    run = make_run(walk_weights(rng, STEPS, SHAPES, drift=0.3))
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert forecast(run, tmp_path / folder, 110, seed).records[0]["networks"].seed == seed
    a, b, c = ((tmp_path / folder / "model.safetensors").read_bytes() for folder in "abc")
    assert a == b != c


def test_too_few_or_uneven_checkpoints_are_one_sentence(make_run: MakeRun, tmp_path: Path) -> None:
    few = make_run(straight([0, 10, 20, 30]))
    with pytest.raises(
        InputError, match="3 or more origins within the run that look equally far ahead, and the 4 check"
    ):
        forecast(few, tmp_path / "out", 50)
    uneven = make_run(straight([0, 10, 30, 70, 150]), run="uneven")
    with pytest.raises(InputError, match="5 evenly spaced ones do"):
        forecast(uneven, tmp_path / "out", 200)
    five = make_run(straight([0, 10, 20, 30, 40]), run="five")
    assert forecast(five, tmp_path / "out", 50).records[0]["networks"].origins == [10, 20, 30]


def test_other_requests_that_it_cannot_follow(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(straight(STEPS))
    request = ForecastRequest((45,), "next", interpolate=True)
    with pytest.raises(InputError, match="--to 45: --method next goes on from the last checkpoint, step 90"):
        extrapolate(open_trajectory(run), tmp_path / "out", request)
    still = make_run({step: {UP: np.ones((4, 3)), NORM: np.full(3, float(step))} for step in STEPS}, run="still")
    with pytest.raises(InputError, match="no matrix inside a layer changed from step 0 to 90"):
        forecast(still, tmp_path / "out", 110)
    assert not (tmp_path / "out").exists()


@given(seed=st.integers(0, 2**32 - 1), m=st.integers(2, 40), n=st.integers(2, 40), decay=st.floats(0.0, 0.95))
def test_the_leading_direction_is_that_of_the_full_decomposition(seed: int, m: int, n: int, decay: float) -> None:
    rng = np.random.default_rng(seed)
    k = min(m, n)
    left, right = np.linalg.qr(rng.standard_normal((m, k)))[0], np.linalg.qr(rng.standard_normal((n, k)))[0]
    matrix = (left * (3e-3 * decay ** np.arange(k))) @ right.T
    found = leading(matrix.astype(np.float32))
    assert found.sigma == pytest.approx(3e-3, rel=1e-4)
    assert abs(found.left @ left[:, 0]) > 1 - 1e-4
    assert abs(found.right @ right[:, 0]) > 1 - 1e-4
    rebuilt = found.sigma * np.outer(found.left, found.right)
    assert np.linalg.norm(matrix - rebuilt) <= np.linalg.norm(3e-3 * decay ** np.arange(1, k)) + 3e-5


def test_signs_agree_through_a_run_and_nothing_has_none(make_run: MakeRun, rng: np.random.Generator) -> None:
    run = open_trajectory(make_run(walk_weights(rng, STEPS, {UP: (24, 16)}, drift=1.0)))
    (tensor,) = run.tensors
    found = changes(tensor, [(1, 4), (5, 8)])
    for row in range(2, len(STEPS)):
        before = found.far[row - 1]
        assert found.far[row].left @ before.left + found.far[row].right @ before.right > 0
    for (origin, _), ahead in found.ahead.items():
        assert ahead.left @ found.far[origin].left + ahead.right @ found.far[origin].right > 0
    flipped = RankOne(-found.far[1].left, found.far[1].sigma, -found.far[1].right)
    np.testing.assert_array_equal(flipped.oriented().right, found.far[1].right)
    assert leading(np.zeros((4, 3), np.float32)).sigma == 0


def test_networks_are_trained_as_torch_would(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    x, y = rng.standard_normal((7, 6)).astype(np.float32), rng.standard_normal((7, 3)).astype(np.float32)
    network = Network(6, 3, Training(width=5))
    layers: list[object] = []
    for weight, bias in network.layers:
        linear = torch.nn.Linear(*weight.shape)
        linear.weight.data, linear.bias.data = torch.tensor(weight.T.copy()), torch.tensor(bias.copy())
        layers += [linear, torch.nn.ReLU()]
    theirs = torch.nn.Sequential(*layers[:-1])
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-2)
    first, second = np.zeros_like(network.parameters), np.zeros_like(network.parameters)
    for step in range(1, 6):
        optimizer.zero_grad()
        loss = (theirs(torch.tensor(x)) - torch.tensor(y)).abs().mean()
        loss.backward()
        optimizer.step()
        assert network.differentiate(x, y) == pytest.approx(loss.item(), rel=1e-5)
        adamw(network.parameters, network.gradient, first, second, step, 1e-2)
    np.testing.assert_allclose(network(x), theirs(torch.tensor(x)).detach().numpy(), atol=1e-5)


def test_lessons_look_as_far_ahead_as_the_target_where_three_origins_do() -> None:
    clock = np.arange(0.0, 110, 10)
    for ahead, learned, origins in ((30, 30, 7), (70, 70, 3), (200, 70, 3), (4, 10, 9)):
        found = lesson(clock, ahead)
        assert found is not None
        assert (found.ahead, len(found.pairs)) == (learned, origins)
        assert all(origin >= 1 and (later - origin) * 10 == learned for origin, later in found.pairs)
    assert lesson(np.array([0.0, 10, 20, 30]), 10) is None


def test_a_back_test_takes_nothing_from_the_future(make_run: MakeRun, rng: np.random.Generator) -> None:
    """Rows beyond a cutoff are in no lesson of it, and its prediction does not change with them."""
    for cutoff, learned in trials(np.arange(0.0, 200, 10))[1]:
        assert max(later for _, later in learned.pairs) <= cutoff
    saved = walk_weights(rng, STEPS, SHAPES, drift=0.5)
    other = {step: {name: value + 0.1 * (step > 60) for name, value in saved[step].items()} for step in STEPS}
    training, clock = Training(width=16, epochs=20), np.arange(0.0, 70, 10)
    learned = lesson(clock, 20)
    assert learned is not None
    moves = []
    for tensors, name in ((saved, "one"), (other, "other")):
        run = open_trajectory(make_run(tensors, run=name))
        known = {tensor.name: changes(tensor, learned.pairs) for tensor in run}
        moves.append(predict(known, learned, clock, training)[0])
    for name in SHAPES:
        for part in ("left", "sigma", "right"):
            np.testing.assert_array_equal(getattr(moves[0][name], part), getattr(moves[1][name], part))


def test_back_tests_are_those_of_the_models_it_writes(
    make_run: MakeRun, rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error from the Gram with moves is that of the written forecast, weight by weight."""
    monkeypatch.setattr("driftline.forecast.moves._MOST", 2)
    saved = walk_weights(rng, STEPS[:9], SHAPES | {NORM: (9,)}, drift=0.5)
    run = make_run(saved)
    trajectory = open_trajectory(run)
    groups, found = try_next(trajectory, observe(trajectory))
    scores = groups[0, "up"] + groups[0, "down"] + groups[0, "norm"]
    assert scores.cutoff.tolist() == [4, 4, 4, 7]
    assert scores.target.tolist() == [5, 6, 8, 8]
    assert [one.horizon for one in found] == [10.0, 20.0, 40.0]
    row = 3
    seen = open_trajectory(run, steps="0:70")
    extrapolate(seen, tmp_path / "model", ForecastRequest((80,), "next"), Storage(keep=()))
    written = load_file(tmp_path / "model" / "model.safetensors")
    true, last = ({name: saved[step][name].astype(np.float32) for name in written} for step in (80, 70))
    error = sum(float(np.square(written[name] - true[name], dtype=np.float64).sum()) for name in written)
    hold = sum(float(np.square(last[name] - true[name], dtype=np.float64).sum()) for name in written)
    assert scores.error[row] == pytest.approx(error, rel=1e-4)
    assert scores.hold_error[row] == pytest.approx(hold, rel=1e-4)
    few = observe(trajectory).only(range(5))
    with pytest.raises(InputError, match="leave nothing to test it on: it takes 6 checkpoints"):
        try_next(trajectory, few)
