"""NExt (arXiv 2604.11446): small networks learn, on the run's own past, what a matrix does next.

For every matrix inside the layers, the leading directions of what it changed since the first checkpoint (global) and
since the last one (local) predict that of the change ahead, sigma u vᵀ, which is added to the last checkpoint. Each
shape of u, of v, and sigma has its own network, trained on all matrices of that shape at all origins within the run
that look as far ahead as the target (`lessons`); where fewer than three do, as far as three look, and the prediction is
multiplied by how much further the target is. All other tensors stay those of the last checkpoint: the paper trains LoRA
adapters, where they do not move.

Written from the paper's description, and different from its code in this. Signs of u and v are fixed. Networks see
sigma as a speed, over the time that the change took: as it is, the global one grows beyond all that they were trained on,
and a run on a line was overshot by 12 to 64 %. Elements of u and v are scaled to size 1, and sigma to a mean of 1. A
network has two hidden layers; theirs is three chains of linear maps, each with one ReLU in a middle as narrow as what is
predicted, which for sigma is one number, and dies for most seeds. 200 epochs at 1e-3 in place of 1000 at 2e-5 reach a
smaller error in training. How far to go is the target's business, in place of a sweep of factors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from driftline._version import __version__
from driftline.checkpoints.configuration import advancing, step_text
from driftline.checkpoints.reasons import remedy
from driftline.checkpoints.trajectory import TensorSeries, Trajectory
from driftline.errors import InputError
from driftline.forecast.forecast import Forecast, Origin, Plan, TrainedNetworks
from driftline.forecast.lessons import FEWEST, FEWEST_CHECKPOINTS, Changes, Lesson, changes, lesson
from driftline.forecast.networks import Network, Training
from driftline.forecast.observations import clock_in_steps
from driftline.forecast.rank_one import RankOne, is_matrix_of_a_layer, read_matrix
from driftline.forecast.request import ForecastRequest
from driftline.progress import Advance, OpenBar, unseen

Array = np.ndarray


@dataclass(frozen=True)
class NExt:
    """The rule: what each matrix is predicted to change, and what to multiply that by."""

    moves: Mapping[str, RankOne]
    times: float

    def applies(self, tensor: TensorSeries) -> bool:
        return tensor.name in self.moves

    def forecast(self, tensor: TensorSeries) -> Array:
        """The last checkpoint and the change, float32 [size]."""
        move = self.moves[tensor.name]
        moved = read_matrix(tensor, -1)
        moved += np.outer(np.float32(self.times * move.sigma) * move.left, move.right)
        return moved.ravel()


def predict(
    known: Mapping[str, Changes],
    learned: Lesson,
    clock: Array,
    training: Training,
    tick: Advance = unseen,
) -> tuple[dict[str, RankOne], float]:
    """What each matrix changes from the end of the clock on, as far ahead as the lesson looks, and the training error.

    That is the mean absolute error of the elements of u and v.

    Args:
        known: changes of each matrix; none of rows beyond the clock is looked at.
        clock: of the checkpoints seen, [T].
        tick: is told of every epoch.
    """
    parts: dict[str, dict[str, Array]] = {name: {} for name in known}
    losses = []
    for (part, size), names in networks(known).items():

        def behind(rows: Sequence[int], names: list[str] = names, part: str = part) -> Array:
            far = [_scaled(known[name].far[row], part, clock[row] - clock[0]) for name in names for row in rows]
            near = [_scaled(known[name].near[row], part, clock[row] - clock[row - 1]) for name in names for row in rows]
            return np.concatenate([far, near], axis=1)

        asked = behind([origin for origin, _ in learned.pairs])
        told = np.array(
            [
                _scaled(known[name].ahead[origin, later], part, clock[later] - clock[origin])
                for name in names
                for origin, later in learned.pairs
            ]
        )
        unit = (told.mean() or np.float32(1)) if part == "sigma" else np.float32(1)
        network = Network(2 * size, size, training)
        loss = network.fit(asked / unit, told / unit, tick)
        if part != "sigma":
            losses.append(loss)
        for name, predicted in zip(names, network(behind([clock.size - 1]) / unit) * unit, strict=True):
            parts[name][part] = predicted
    moves = {
        name: RankOne(_unit(found["left"]), max(float(found["sigma"][0]), 0.0) * learned.ahead, _unit(found["right"]))
        for name, found in parts.items()
    }
    return moves, float(np.mean(losses))


def _scaled(one: RankOne, part: str, span: float) -> Array:
    """The part of a change that took `span` of the clock, as networks see it: sigma as a speed, elements of u and v of size 1."""
    if part == "sigma":
        return np.array([one.sigma / span], np.float32)
    vector: Array = getattr(one, part)
    return vector * np.float32(math.sqrt(vector.size))


def networks(known: Mapping[str, Changes]) -> dict[tuple[str, int], list[str]]:
    """The networks that it takes, (part, size): one for each size of u and of v, and one for sigma; and whose they are."""
    found: dict[tuple[str, int], list[str]] = {}
    for name, matrix in known.items():
        one = next(iter(matrix.far.values()))
        for key in (("left", one.left.size), ("sigma", 1), ("right", one.right.size)):
            found.setdefault(key, []).append(name)
    return found


def _unit(vector: Array) -> Array:
    length = float(np.linalg.norm(vector))
    return vector / length if length > 0 else vector


def plan(
    trajectory: Trajectory,
    request: ForecastRequest,
    targets: Sequence[float],
    progress: OpenBar,
) -> Plan:
    """The forecast of every target; the checkpoints are read once, and once more as far as lessons look.

    Raises:
        InputError: a target that is not ahead, too few checkpoints, or no matrix inside a layer that changes.
    """
    steps, training = trajectory.steps, Training(seed=request.seed)
    clock, goals = (clock_in_steps(trajectory, request.clock, some) for some in (steps, targets))
    advancing(trajectory.name, steps, clock, request.clock)
    for target, goal in zip(targets, goals, strict=True):
        if not goal > clock[-1]:
            raise InputError(
                f"--to {step_text(target)}: --method next goes on from the last checkpoint, step {steps[-1]}: give a later step"
            )
    lessons = [lesson(clock, float(goal - clock[-1])) for goal in goals]
    learned = [one for one in lessons if one is not None]
    if len(learned) < len(lessons):
        raise InputError(
            f"{trajectory.name}: --method next learns from {FEWEST} or more origins within the run that look equally far "
            f"ahead, and the {len(steps)} checkpoints to step {steps[-1]} hold fewer: {FEWEST_CHECKPOINTS} evenly spaced "
            f"ones do; {remedy(steps, FEWEST_CHECKPOINTS)}"
        )
    pairs = {pair for one in learned for pair in one.pairs}
    matrices = [tensor for tensor in trajectory if is_matrix_of_a_layer(tensor)]
    with progress("reading weights", sum(info.read_bytes for t in matrices for info in t.stored[1:])) as advance:
        known = {tensor.name: changes(tensor, pairs, advance) for tensor in matrices}
    moving = {name: found for name, found in known.items() if found.far[len(steps) - 1].sigma > 0}
    if not moving:
        raise InputError(
            f"{trajectory.name}: no matrix inside a layer changed from step {steps[0]} to {steps[-1]}, and --method next "
            "forecasts nothing else: use --method two-point"
        )
    distinct = {one.pairs: one for one in learned}
    trained: dict[tuple[tuple[int, int], ...], tuple[dict[str, RankOne], float]] = {}
    with progress("training networks", len(distinct) * len(networks(moving)) * training.epochs, unit="epochs") as tick:
        for key, one in distinct.items():
            trained[key] = predict(moving, one, clock, training, tick)
    last = np.eye(len(steps))[-1]
    coefficients = {tensor.name: last for tensor in trajectory}
    forecasts = []
    for target, goal, one in zip(targets, goals, learned, strict=True):
        moves, loss = trained[one.pairs]
        times = float(goal - clock[-1]) / one.ahead
        origin = Origin(
            driftline=__version__,
            target=target,
            method="next",
            clock=request.clock,
            observed=list(steps),
            by_rule=list(moves),
            networks=TrainedNetworks(
                origins=[steps[row] for row, _ in one.pairs],
                ahead=one.ahead,
                times=times,
                width=training.width,
                epochs=training.epochs,
                learning_rate=training.learning_rate,
                seed=training.seed,
                training_error=loss,
            ),
        )
        forecasts.append(Forecast(coefficients, origin, NExt(moves, times)))
    return Plan(trajectory, tuple(forecasts), _sentence(trajectory, learned[-1], forecasts[-1], len(moving)), False)


def _sentence(trajectory: Trajectory, learned: Lesson, forecast: Forecast, matrices: int) -> str:
    rule = forecast.rule
    assert isinstance(rule, NExt)
    further = f", times {rule.times:.3g} to get to the target" if abs(rule.times - 1) > 1e-9 else ""
    some = "1 matrix goes" if matrices == 1 else f"{matrices} matrices go"
    return (
        f"next, as asked: {some} on from step {trajectory.steps[-1]} as networks learned from {len(learned.pairs)} origins that "
        f"look {step_text(learned.ahead)} steps ahead{further}; the other tensors are held"
    )
