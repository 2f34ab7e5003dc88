"""Whether driftline reads, measures and forecasts a run as its truth says: `differences` says in sentences where not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

import driftline
from driftline.checkpoints.trajectory import Trajectory, open_trajectory

PRODUCTS = 2.0**-24  # `rounding` of LoRA's products and of sums with them: made in double precision, rounded once
State = Mapping[str, np.ndarray]


def differences(
    run: Path, truth: Path, scratch: Path, *, base: Path | None = None, loads: bool = True, rounding: float = 0.0
) -> list[str]:
    """What is not as it should be.

    Args:
        run: a folder of checkpoints.
        truth: `step_N.safetensors` of every step that should be read; of step 0 only where `base` is given.
        scratch: an empty folder.
        base: given as --base.
        loads: whether transformers is to load the forecast.
        rounding: the largest difference of a weight read, relative to the largest of its tensor: 0, or of LoRA's
            products, which are sums.
    """
    truths = {int(path.stem.removeprefix("step_")): _load(path) for path in truth.glob("step_*.safetensors")}
    truths = {step: truths[step] for step in sorted(truths) if step > 0 or base is not None}
    try:
        trajectory = open_trajectory(run, base=base)
    except driftline.InputError as error:
        return [f"refused: {error}"]
    if trajectory.steps != tuple(truths):
        return [f"steps {trajectory.steps} are read, {tuple(truths)} were saved; skipped: {trajectory.skipped}"]
    found = _read_wrongly(trajectory, truths, rounding)
    if len(truths) > 2:
        found += _measured_wrongly(trajectory, truths, scratch / "analysis")
    return found + _forecast_wrongly(trajectory, truths, scratch / "forecast", loads, rounding)


def _read_wrongly(trajectory: Trajectory, truths: Mapping[int, State], rounding: float) -> list[str]:
    found = [f"step {step} is skipped: {why}" for step, why in trajectory.skipped.items()]
    read = {series.name: series for series in trajectory}
    for index, (step, state) in enumerate(truths.items()):
        found += [f"step {step}: {name!r} is invented" for name in read if name not in state]
        for name, saved in state.items():
            if name not in read:
                if not _is_a_copy(name, trajectory, state):
                    found.append(f"step {step}: {name!r} is not read: {trajectory.left_out.get(name, 'not found')}")
            elif read[name].shape != saved.shape:
                found.append(f"step {step}: {name!r} is read as {read[name].shape}, was saved as {saved.shape}")
            else:
                got = read[name].stored[index].values(0, read[name].size).astype(np.float64)
                error = np.abs(got - saved.reshape(-1)).max()
                if not error <= rounding * np.abs(saved).max():
                    found.append(f"step {step}: {name!r} differs by {error} from what was saved")
    return found


def _is_a_copy(name: str, trajectory: Trajectory, state: State) -> bool:
    """Tied tensors count once."""
    why = trajectory.left_out.get(name, "")
    original = why.removeprefix("tied to ").removesuffix(", counted once")
    return original != why and np.array_equal(state[name], state[original])


def _measured_wrongly(trajectory: Trajectory, truths: Mapping[int, State], out: Path) -> list[str]:
    """R² by numpy's own sums, of every weight that changes."""
    try:
        summary = driftline.analyze(trajectory, out)
    except driftline.InputError as error:
        return [f"analyze refuses: {error}"]
    steps = np.array(list(truths), float)
    x = steps - steps.mean()
    each = []
    for series in trajectory:
        if any(series.name not in state for state in truths.values()):
            continue
        y = np.stack([state[series.name].reshape(-1) for state in truths.values()])
        y = y[:, (y != y[0]).any(axis=0)]
        y = y - y.mean(axis=0)
        each.append((x @ y) ** 2 / ((x @ x) * (y * y).sum(axis=0)))
    r2 = np.concatenate([np.zeros(0), *each])
    found = []
    if summary.parameters.measured != r2.size:
        found.append(f"{summary.parameters.measured} weights are measured, {r2.size} change")
    if not abs(summary.r2.mean - r2.mean()) <= 1e-6:
        found.append(f"mean R² {summary.r2.mean}, numpy's {r2.mean()}")
    return found


def _forecast_wrongly(
    trajectory: Trajectory, truths: Mapping[int, State], out: Path, loads: bool, rounding: float
) -> list[str]:
    """The two-point forecast by its formula, as it is written and as transformers loads it."""
    early, late = truths[trajectory.steps[0]], truths[trajectory.steps[-1]]
    ahead = (trajectory.steps[-1] - trajectory.steps[0]) // 2 + 1
    alpha = 1 + ahead / (trajectory.steps[-1] - trajectory.steps[0])
    to = trajectory.steps[-1] + ahead
    try:
        driftline.extrapolate(trajectory, out, to=to, method="two-point", keep=("none",), dtype="float32")
    except driftline.InputError as error:
        return [f"extrapolate refuses: {error}"]
    wanted = {name: early[name] + alpha * (late[name] - early[name]) for name in late.keys() & early.keys()}
    allowed = {  # float32 rounds the difference, its multiple and the sum
        name: 4 * 2.0**-23 * alpha * np.maximum.reduce([np.abs(state[name]) for state in (early, late, wanted)])
        + 2 * alpha * rounding * max(np.abs(late[name]).max(), np.abs(early[name]).max())
        for name in wanted
    }
    written: dict[str, np.ndarray] = {}
    for file in out.rglob("*.safetensors"):
        written |= _load(file)
    copies = {name for name in wanted if _is_a_copy(name, trajectory, late)}
    found = [f"the forecast invents {name!r}" for name in written if name not in wanted]
    found += [f"the forecast lacks {name!r}" for name in wanted if name not in written and name not in copies]
    found += _unlike("the forecast", written, wanted, allowed)
    return found + (_loaded_wrongly(out, wanted, allowed) if loads else [])


def _loaded_wrongly(out: Path, wanted: State, allowed: State) -> list[str]:
    import torch
    import transformers

    try:
        model, said = transformers.AutoModelForCausalLM.from_pretrained(
            out, output_loading_info=True, dtype=torch.float32
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        return [f"from_pretrained fails: {error}"]
    found = [f"from_pretrained: {kind} {sorted(keys)[:3]}" for kind, keys in said.items() if keys]
    loaded = {name: value.numpy().astype(np.float64) for name, value in model.state_dict().items()}
    return found + _unlike("the model loaded", loaded, wanted, allowed)


def _unlike(what: str, got: State, wanted: State, allowed: State) -> list[str]:
    found = []
    for name in wanted.keys() & got.keys():
        if got[name].shape != wanted[name].shape:
            found.append(f"{what} has {name!r} as {got[name].shape}, not {wanted[name].shape}")
        elif (excess := np.abs(got[name] - wanted[name]) - allowed[name]).max() > 0:
            found.append(f"{what} has {name!r} wrong by {excess.max()} more than rounding")
    return found


def _load(path: Path) -> dict[str, np.ndarray]:
    """In double precision."""
    return {name: value.astype(np.float64) for name, value in load_file(path).items()}
