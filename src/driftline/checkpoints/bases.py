"""Whole models and changes of one, in one run: what an adapter changes is put on its base, or they are not mixed.

A whole model's weights and an adapter's bare ΔW under the same names are different things, and a line through both means
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from driftline.checkpoints.comparable import on_base
from driftline.checkpoints.composed import Normed
from driftline.checkpoints.layouts import Checkpoint, adapter
from driftline.checkpoints.low_rank import needs_base
from driftline.checkpoints.matching import as_named, renamed
from driftline.checkpoints.opening import open_checkpoint
from driftline.errors import InputError, UnreadableCheckpoint


def is_change(checkpoint: Checkpoint) -> bool:
    """Whether it is an adapter without its base."""
    return any(map(needs_base, checkpoint.tensors.values()))


def on_bases(opened: Mapping[int, Checkpoint], base: Checkpoint | None, run: Path | None) -> dict[int, Checkpoint]:
    """Every adapter on its base: the one that was named, or the whole model that the run's first step is.

    Args:
        run: the run's folder, where the adapter as training began is looked for (PiSSA and the like).

    Raises:
        InputError: adapters and whole models that cannot be told apart, a base that is not the adapters', or one that
            the start of training changed in a way that is not known.
    """
    changes = [step for step, checkpoint in opened.items() if is_change(checkpoint)]
    wholes = [step for step in opened if step not in changes]
    note: tuple[str, ...] = ()
    if base is None and changes and wholes:
        if len(wholes) > 1 or wholes[0] > changes[0]:
            raise InputError(
                f"{opened[changes[0]].path} is a LoRA adapter and {opened[wholes[-1]].path} a whole model, which cannot be "
                "compared without the adapters' base: name it with --base, or leave one kind out with --steps"
            )
        base = opened[wholes[0]]
        note = (f"{base.path} is taken as the base of the adapters of the steps after it",)
    if base is None:
        _refuse_rows_without_base(opened)
        return dict(opened)
    initial = _initial(opened, changes, base, run)
    found = {}
    for step, checkpoint in opened.items():
        if step in changes:
            taken_out = checkpoint.settings is not None and checkpoint.settings.taken_out
            try:
                checkpoint = _on_base(checkpoint, base, initial if taken_out else None)
            except UnreadableCheckpoint as error:
                raise InputError(str(error)) from error
            checkpoint = replace(checkpoint, notes=(*checkpoint.notes, *note))
        elif not (checkpoint.model / "config.json").is_file():
            checkpoint = replace(checkpoint, model_folder=base.model)
        found[step] = checkpoint
    return found


def _on_base(change: Checkpoint, base: Checkpoint, initial: Checkpoint | None) -> Checkpoint:
    """The model under the base's names, though the adapter may know its projections joined that are apart there."""
    named = replace(change, tensors=renamed(change.tensors, base.tensors))
    below = replace(base, tensors=as_named(base.tensors, named.tensors))
    made = on_base(named, below, initial)
    return replace(made, tensors=as_named(made.tensors, base.tensors))


def _refuse_rows_without_base(opened: Mapping[int, Checkpoint]) -> None:
    """DoRA sets the lengths of whole weights, so that ΔW alone says nothing of what it does."""
    for checkpoint in opened.values():
        if any(isinstance(info, Normed) and needs_base(info) for info in checkpoint.tensors.values()):
            raise InputError(
                f"{checkpoint.path} is a DoRA adapter, which cannot be measured without the weights whose lengths it sets: "
                "say with --base which model it was trained on"
            )


def _initial(
    opened: Mapping[int, Checkpoint], changes: list[int], base: Checkpoint, run: Path | None
) -> Checkpoint | None:
    """The adapter as training began, where its product was taken out of the base; None where the base is the original.

    Raises:
        InputError: it was taken out, and is saved nowhere.
    """
    kind = next((s.taken_out for step in changes if (s := opened[step].settings) and s.taken_out), "")
    if not kind:
        return None
    found = opened[0] if 0 in changes else _saved_beside(run)
    if found is None or kind.startswith("loftq"):
        where = opened[changes[0]].settings
        assert where is not None
        saved = "and quantised what it left" if kind.startswith("loftq") else "which is saved nowhere in the run"
        raise InputError(
            f"{where.path} says init_lora_weights={kind!r}, which took the adapter's first product out of the base, {saved}: "
            f"{base.path} is not what these adapters were trained on. Leave --base out to measure them, save the adapter of "
            "step 0 as checkpoint-0, or convert each with peft's path_initial_model_for_weight_conversion"
        )
    return replace(found, tensors=renamed(found.tensors, base.tensors))


def _saved_beside(run: Path | None) -> Checkpoint | None:
    """The adapter that peft's recipe for PiSSA has one save before training, such as `pissa_init/`."""
    if run is None or not run.is_dir():
        return None
    for folder in sorted(run.iterdir()):
        if folder.is_dir() and "init" in folder.name.lower() and adapter.holds(folder):
            return open_checkpoint(folder)
    return None
