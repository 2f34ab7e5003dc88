"""A trajectory: ordered checkpoints of the same parameters, readable by slice in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from driftline.checkpoints import dtypes
from driftline.checkpoints.attempts import two_runs
from driftline.checkpoints.discovery import choose_steps, find_steps, folder_of, run_folder, spelled
from driftline.checkpoints.git_lfs import refuse_pointer, refuse_pointers
from driftline.checkpoints.jumps import Regrounded, read_jumps, regrounded
from driftline.checkpoints.layouts import PRECEDENCE, READ_REMOTELY, Checkpoint, adapter, layouts_of
from driftline.checkpoints.leftovers import without_weights
from driftline.checkpoints.low_rank import needs_base
from driftline.checkpoints.reasons import grouped
from driftline.checkpoints.tensors import TensorInfo, read_each
from driftline.errors import InputError, UnreadableCheckpoint
from driftline.files import remote


@dataclass(frozen=True)
class TensorSeries:
    """One tensor through the run: the same name and shape in every checkpoint."""

    name: str
    shape: tuple[int, ...]
    stored: tuple[TensorInfo, ...]  # one per checkpoint

    @property
    def size(self) -> int:
        return self.stored[0].size

    @property
    def dtype(self) -> str:
        """The dtype of the last checkpoint (safetensors name)."""
        return self.stored[-1].dtype

    @property
    def remote(self) -> bool:
        return any(info.remote for info in self.stored)

    def read(self, start: int, stop: int, out: np.ndarray, scratch: np.ndarray) -> None:
        """Values of flat elements [start, stop) at every checkpoint, into float32 `out` [T, stop - start].

        `scratch` is a uint8 buffer of at least 8 x (stop - start) bytes.
        """
        if self.remote:
            raws = [
                row.view(np.uint8)
                if info.dtype == "F32"
                else np.empty(row.size * dtypes.ITEM_BYTES[info.dtype], np.uint8)
                for row, info in zip(out, self.stored, strict=True)
            ]
            read_each(self.stored, start, raws)
            for row, info, raw in zip(out, self.stored, raws, strict=True):
                if info.dtype != "F32":
                    dtypes.decode(raw, info.dtype, row)
            return
        for row, info in zip(out, self.stored, strict=True):
            nbytes = (stop - start) * dtypes.ITEM_BYTES[info.dtype]
            if info.dtype == "F32":
                info.read_into(start, row.view(np.uint8))
            else:
                info.read_into(start, scratch[:nbytes])
                dtypes.decode(scratch[:nbytes], info.dtype, row)


@dataclass(frozen=True)
class Trajectory:
    """Ordered checkpoints of the same parameters.

    Attributes:
        steps: training steps, ascending.
        checkpoints: one per step.
        tensors: those that take part, in the file order of the last checkpoint.
        left_out: name -> reason, for every tensor that does not take part.
        skipped: step -> reason, for every checkpoint that was found but not usable, or was rolled back.
        regrounded: the jumps of a run that was re-grounded.
        unused: folder -> reason, for every folder that looks like a checkpoint and is not taken as one.
        notes: sentences about the run as a whole.
    """

    name: str
    steps: tuple[int, ...]
    checkpoints: tuple[Checkpoint, ...]
    tensors: tuple[TensorSeries, ...]
    left_out: dict[str, str]
    skipped: dict[int, str]
    regrounded: Regrounded | None = None
    unused: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def folders(self) -> tuple[Path, ...]:
        """Of the checkpoints."""
        return tuple(checkpoint.path for checkpoint in self.checkpoints)

    @property
    def parameters(self) -> int:
        return sum(tensor.size for tensor in self.tensors)

    @property
    def nbytes(self) -> int:
        """Bytes that one pass over the run reads."""
        return sum(info.nbytes for tensor in self.tensors for info in tensor.stored)

    def only(self, steps: Sequence[int]) -> Trajectory:
        """The same run seen through some of its checkpoints."""
        opened = dict(zip(self.steps, self.checkpoints, strict=True))
        chosen = {step: opened[step] for step in steps}
        tensors, left_out = _shared_tensors(chosen)
        jumps = regrounded(self.regrounded.jumps, list(chosen)) if self.regrounded else None
        return replace(
            self,
            steps=tuple(chosen),
            checkpoints=tuple(chosen.values()),
            tensors=tensors,
            left_out=left_out,
            regrounded=jumps,
        )

    def __iter__(self) -> Iterator[TensorSeries]:
        return iter(self.tensors)

    def __getitem__(self, name: str) -> TensorSeries:
        return next(tensor for tensor in self.tensors if tensor.name == name)


def open_trajectory(
    run: str | Path | Sequence[str | Path],
    *,
    steps: str | None = None,
    base: str | Path | None = None,
    strict: bool = False,
) -> Trajectory:
    """The trajectory of a run.

    Args:
        run: a folder of checkpoints, `STEP=PATH` pairs, or both.
        steps: which steps to use, `FIRST:LAST:STRIDE` (ends included) or a list `0,100,500`.
        base: a model folder to use as step 0.
        strict: refuse incomplete or damaged checkpoints and differing tensors, where the default is
            to leave them out and say so.

    Raises:
        InputError: no usable checkpoints, or no tensor that all of them share.
    """
    arguments = [run] if isinstance(run, (str, Path)) else list(run)
    found = find_steps(arguments)
    folders = found.steps
    if base is not None:
        if 0 in folders:
            shown = remote.redacted(str(base))
            raise InputError(
                f"--base {shown} would be step 0, but the run already has {folders[0]} as step 0: drop one"
            )
        root = folder_of(base)
        try:
            with remote.faults(root):
                there = root.is_dir()
        except OSError as error:
            raise InputError(
                f"--base {root} cannot be read ({error.strerror}): check its address and permissions"
            ) from error
        if not there:
            raise InputError(
                f"--base {root} is not a folder: give that of the base model, or its address, such as hf://owner/name"
            )
        folders = {0: root, **folders}
    opened: dict[int, Checkpoint] = {}
    chosen = {*choose_steps(sorted({*folders, *found.skipped}), steps), *([0] if base is not None else [])}
    wanted = sorted(chosen & folders.keys())
    root_folder = run_folder(arguments)
    jumps = regrounded(read_jumps(folder_of(root_folder)), wanted) if root_folder is not None and wanted else None
    skipped = {step: reason for step, reason in found.skipped.items() if step in chosen}
    skipped |= jumps.discarded if jumps else {}
    for step in wanted:
        if step in skipped:
            continue
        try:
            checkpoint = _open(folders[step])
            if base is not None and step > 0 and any(map(needs_base, checkpoint.tensors.values())):
                checkpoint = adapter.on_base(checkpoint, opened[0])
            if base is not None and step > 0 and not (checkpoint.model / "config.json").is_file():
                checkpoint = replace(checkpoint, model_folder=opened[0].model, tied=checkpoint.tied or opened[0].tied)
            opened[step] = checkpoint
        except UnreadableCheckpoint as error:
            if base is not None and step == 0:
                raise InputError(f"--base cannot be read ({error}): give the folder of the base model") from error
            if strict:
                raise InputError(
                    f"{error} (--strict refuses a run with such a checkpoint): mend it, or choose others with --steps"
                ) from error
            skipped[step] = str(error)
    name = remote.redacted(spelled(arguments))
    skipped = dict(sorted(skipped.items()))
    if not opened:
        raise InputError(
            f"{name}: none of the {len(skipped)} checkpoints can be read ({'; '.join(grouped(skipped))}): name a run with "
            "complete ones"
        )
    tensors, left_out = _shared_tensors(opened)
    if strict and (differing := [f"{key!r}: {why}" for key, why in left_out.items() if "step" in why]):
        raise InputError(
            f"{name}: tensor {differing[0]} (--strict refuses a run whose checkpoints differ): name the checkpoints to use with --steps"
        )
    if not tensors:
        example = next(iter(left_out.items()), ("", "no tensors at all"))
        raise InputError(
            f"{name}: no tensor is the same in all checkpoints ({example[0]!r}: {example[1]}): choose those of one model with --steps"
        )
    jumps = regrounded(jumps.jumps, list(opened)) if jumps else None
    notes = (*found.notes, *two_runs(opened))
    return Trajectory(
        name, tuple(opened), tuple(opened.values()), tensors, left_out, skipped, jumps, found.unused, notes
    )


def _open(folder: Path) -> Checkpoint:
    try:
        with remote.faults(folder):
            layouts = layouts_of(folder)
            if not layouts:
                list(folder.iterdir())  # raises where a server fails: to look for a file there says no such file
                raise UnreadableCheckpoint(without_weights(folder))
            if remote.is_remote(folder) and layouts[0].NAME not in READ_REMOTELY:
                raise UnreadableCheckpoint(
                    f"{folder} is in the layout {layouts[0].NAME}, which is read from local files only; copy the run to a "
                    "local folder"
                )
            try:
                checkpoint = layouts[0].open(folder)
            except UnreadableCheckpoint:
                refuse_pointers(folder)  # a better reason
                raise
            refuse_pointer(checkpoint.model / "config.json")
        if len(layouts) > 1:
            note = f"{folder} holds {' and '.join(layout.NAME for layout in layouts)}: {layouts[0].NAME} is read: {PRECEDENCE}"
            checkpoint = replace(checkpoint, notes=(*checkpoint.notes, note))
        return checkpoint
    except OSError as error:
        raise UnreadableCheckpoint(f"{folder} cannot be read ({error.strerror}): check its permissions") from error
    except RecursionError as error:
        raise UnreadableCheckpoint(f"{folder} has a damaged file: its JSON is nested too deeply") from error


def _shared_tensors(opened: dict[int, Checkpoint]) -> tuple[tuple[TensorSeries, ...], dict[str, str]]:
    """The tensors all checkpoints share, and the reason for every one left out."""
    last = list(opened.values())[-1]
    names = dict.fromkeys(last.tensors)
    for checkpoint in opened.values():
        names |= dict.fromkeys(checkpoint.tensors)
    tensors, left_out = [], {}
    for name in names:
        reason = _why_not(name, opened)
        if reason:
            left_out[name] = reason
        else:
            stored = tuple(checkpoint.tensors[name] for checkpoint in opened.values())
            tensors.append(TensorSeries(name, stored[-1].shape, stored))
    return tuple(tensors), left_out


def _why_not(name: str, opened: dict[int, Checkpoint]) -> str | None:
    infos = {step: checkpoint.tensors.get(name) for step, checkpoint in opened.items()}
    tied = next((checkpoint.tied[name] for checkpoint in opened.values() if name in checkpoint.tied), None)
    if tied is not None:
        return f"tied to {tied}, counted once"
    absent = [step for step, info in infos.items() if info is None]
    if absent:
        return f"absent at step {absent[0]}"
    first_step, first = next((step, info) for step, info in infos.items() if info)
    for step, info in infos.items():
        if info and info.shape != first.shape:
            return f"shape {list(first.shape)} at step {first_step}, {list(info.shape)} at step {step}"
        if info and info.dtype not in dtypes.FLOATS:
            return f"dtype {info.dtype} is not a floating one"
    return "empty" if first.size == 0 else None
