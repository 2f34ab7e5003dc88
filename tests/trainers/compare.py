"""Whether driftline reads, measures and forecasts a run as its truth says; where not, `check` says so in sentences."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import driftline
from driftline.checkpoints.trajectory import Trajectory, open_trajectory

PRODUCTS = 2.0**-24  # `rounding` of LoRA's products and of sums with them: made in double precision, rounded once
State = Mapping[str, np.ndarray]
Run = Path | Sequence[str]


def check(
    run: Run,
    truth: Path,
    scratch: Path,
    *,
    base: Path | None = None,
    steps: Collection[int] = (),
    forecast: bool = True,
    rounding: float = 0.0,
) -> None:
    """Fails with all that is not as it should be.

    Args:
        run: a folder of checkpoints, or `STEP=PATH` pairs.
        truth: `step_N.safetensors` of every step that should be read; of step 0 only where `base` is given.
        scratch: an empty folder.
        base: given as --base.
        steps: those that should be read, where not all that were saved.
        forecast: whether a model can be made, which transformers is to load: not of an adapter without its base, nor
            of names that are not those of transformers.
        rounding: the largest difference of a weight read, relative to the largest of its tensor: 0, or of LoRA's
            products, which are sums.
    """
    truths = {int(path.stem.removeprefix("step_")): _load(path) for path in truth.glob("step_*.safetensors")}
    expected = [step for step in sorted(truths) if step in (steps or truths) and (step > 0 or base is not None)]
    found = _differences(run, {step: truths[step] for step in expected}, scratch, base, forecast, rounding)
    assert not found, "\n".join(found)


def check_without_scale(run: Path, products: Path, scratch: Path, *, scale: float, base: Path | None = None) -> None:
    """Factors whose scale is in no file: B·A is measured, of which R² is that of any multiple; so it is said, and no model made.

    Args:
        products: what the factors say, `scale` and all.
    """
    said = r"lora_alpha|adapter_config\.json"
    trajectory = open_trajectory(run)
    for index, checkpoint in enumerate(trajectory.checkpoints):
        assert any(re.search(said, note) for note in checkpoint.notes), checkpoint.notes
        for name, product in _load(products / f"step_{trajectory.steps[index]}.safetensors").items():
            got = scale * trajectory[name].stored[index].values(0, product.size).astype(np.float64)
            assert np.abs(got - product.reshape(-1)).max() <= 2 * PRODUCTS * np.abs(product).max(), name
    assert not any(".lora_" in series.name for series in trajectory)
    with pytest.raises(driftline.InputError, match=said):
        driftline.extrapolate(run, scratch / "out", to=60, method="two-point", base=None if base is None else str(base))


def _differences(
    run: Run, truths: Mapping[int, State], scratch: Path, base: Path | None, forecast: bool, rounding: float
) -> list[str]:
    try:
        trajectory = open_trajectory(run, base=base)
    except driftline.InputError as error:
        return [f"refused: {error}"]
    if trajectory.steps != tuple(truths):
        return [f"steps {trajectory.steps} are read, not {tuple(truths)}; skipped: {trajectory.skipped}"]
    found = _read_wrongly(trajectory, truths, rounding)
    if len(truths) > 2:
        found += _measured_wrongly(trajectory, truths, scratch / "analysis")
    if forecast:
        found += _forecast_wrongly(trajectory, truths, scratch / "forecast", rounding)
    return found


def _read_wrongly(trajectory: Trajectory, truths: Mapping[int, State], rounding: float) -> list[str]:
    read = {series.name: series for series in trajectory}
    wrong: dict[str, list[str]] = {}  # what is wrong -> of which tensors
    for index, (step, state) in enumerate(truths.items()):
        each = {name: "invented" for name in read if name not in state}
        for name, saved in state.items():
            if name not in read:
                if not _is_a_copy(name, read, state):
                    each[name] = f"not read ({trajectory.left_out.get(name, 'not found')})"
            elif read[name].shape != saved.shape:
                each[name] = f"read as {list(read[name].shape)}, saved as {list(saved.shape)}"
            else:
                got = read[name].stored[index].values(0, read[name].size).astype(np.float64)
                if not np.abs(got - saved.reshape(-1)).max() <= rounding * np.abs(saved).max():
                    each[name] = "not what was saved"
        for name, what in each.items():
            wrong.setdefault(what, []).append(f"{name!r} of step {step}")
    return [f"{what}: {len(names)} tensors, the first {names[0]}" for what, names in wrong.items()]


def _is_a_copy(name: str, read: Iterable[str], state: State) -> bool:
    """Tied tensors count once. Biases of zeros are no copies of one another."""
    same = (other for other in read if other in state and np.array_equal(state[name], state[other]))
    return np.ptp(state[name]) > 0 and any(same)


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
    if not each:
        return ["no tensor is there to compare R² of"]
    r2 = np.concatenate(each)
    found = []
    if summary.parameters.measured != r2.size:
        found.append(f"{summary.parameters.measured} weights are measured, {r2.size} change")
    if not abs(summary.r2.mean - r2.mean()) <= 1e-6:
        found.append(f"mean R² {summary.r2.mean}, numpy's {r2.mean()}")
    return found


def _forecast_wrongly(trajectory: Trajectory, truths: Mapping[int, State], out: Path, rounding: float) -> list[str]:
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
    copies = {name for name in wanted if _is_a_copy(name, written, late)}
    found = [f"the forecast invents {name!r}" for name in written if name not in wanted]
    found += [f"the forecast lacks {name!r}" for name in wanted if name not in written and name not in copies]
    found += _unlike("the forecast", written, wanted, allowed)
    return found + _loaded_wrongly(out, wanted, allowed)


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
    found += [f"the model loaded lacks {name!r}" for name in wanted if name not in loaded]
    return found + _unlike("the model loaded", loaded, wanted, allowed)


def _unlike(what: str, got: State, wanted: State, allowed: State) -> list[str]:
    common = sorted(wanted.keys() & got.keys())
    shapes = [name for name in common if got[name].shape != wanted[name].shape]
    excess = {n: (np.abs(got[n] - wanted[n]) - allowed[n]).max() for n in common if n not in shapes}
    values = [f"{name!r}, by {more} more than rounding" for name, more in excess.items() if not more <= 0]  # or NaN
    found = [f"{what} has {len(shapes)} tensors of another shape, the first {shapes[0]!r}"] if shapes else []
    return found + ([f"{what} has {len(values)} tensors wrong, the first {values[0]}"] if values else [])


def _load(path: Path) -> dict[str, np.ndarray]:
    """In double precision."""
    return {name: value.astype(np.float64) for name, value in load_file(path).items()}
