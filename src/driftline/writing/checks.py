"""What makes a forecast model impossible, found out before anything is written: checkpoints that differ, or lack a part."""

from __future__ import annotations

from driftline.checkpoints import dtypes
from driftline.checkpoints.bases import is_change
from driftline.checkpoints.comparable import writable
from driftline.checkpoints.layouts import huggingface
from driftline.checkpoints.tensors import TensorInfo
from driftline.checkpoints.trajectory import Trajectory
from driftline.errors import InputError
from driftline.writing.storage import Storage


def refuse_differences(trajectory: Trajectory, storage: Storage) -> None:
    """Refuse a run of which no model can be made, or whose checkpoints are not of one model.

    Raises:
        InputError: adapters without their base, no configuration, or a tensor that is missing, of another shape or
            of another dtype at some step, named with step and file.
    """
    _refuse_what_is_no_model(trajectory)
    last = trajectory.checkpoints[-1]
    measured = {tensor.name for tensor in trajectory}
    for step, checkpoint in zip(trajectory.steps, trajectory.checkpoints, strict=True):
        for name in {**last.tensors, **checkpoint.tensors}:
            if name in last.tied or name in checkpoint.tied or name in trajectory.carried:
                continue
            there, here = last.tensors.get(name), checkpoint.tensors.get(name)
            if here is not None and there is not None:
                _refuse_difference(here, step, there, trajectory.steps[-1], storage, measured=name in measured)
            elif here is not None or not _only_the_base_lacks(name, trajectory):
                absent, present = (step, there) if here is None else (trajectory.steps[-1], here)
                assert present is not None
                raise InputError(
                    f"tensor {name!r} is in {present.file} but absent at step {absent}: a forecast needs it in every "
                    "checkpoint, so leave that step out with --from or --steps"
                )


def _only_the_base_lacks(name: str, trajectory: Trajectory) -> bool:
    """Whether a small tensor, such as a buffer, is in all checkpoints but the first: it is copied from the last."""
    first, *others = trajectory.checkpoints
    size = trajectory.checkpoints[-1].tensors[name].size
    return (
        name not in first.tensors
        and all(name in other.tensors for other in others)
        and 100 * size < trajectory.parameters
    )


def _refuse_what_is_no_model(trajectory: Trajectory) -> None:
    last = trajectory.checkpoints[-1]
    if (why := writable(last)) is not None:
        raise InputError(why)
    if any(is_change(checkpoint) for checkpoint in trajectory.checkpoints):
        raise InputError(
            f"the checkpoints of {trajectory.name} are LoRA adapters: say with --base which model they were trained on, "
            "and the forecast is written as a whole model"
        )
    if last.layout != huggingface.NAME and not (last.model / "config.json").is_file():
        raise InputError(
            f"{last.path} has no config.json, without which no model can be loaded: name with --base the model that the "
            "run began with, whose configuration and tokenizer are then used"
        )


def _refuse_difference(
    here: TensorInfo, step: int, there: TensorInfo, last_step: int, storage: Storage, *, measured: bool
) -> None:
    """One tensor at a step, and at the last."""
    if here.shape != there.shape and not measured:
        raise InputError(
            f"{here.file}: tensor {here.name!r} has shape {list(here.shape)} at step {step} but {list(there.shape)} "
            f"at step {last_step}: leave one of them out with --from or --steps"
        )
    if here.written == there.written:
        return
    differ = (
        f"{here.file}: tensor {here.name!r} is {here.written} at step {step} but {there.written} at step {last_step}"
    )
    if not {here.dtype, there.dtype} <= set(dtypes.FLOATS):
        raise InputError(f"{differ}: choose checkpoints of one model with --steps")
    if storage.dtype == "same":
        raise InputError(f"{differ}: say with --dtype float32, bfloat16 or float16 what to write")
