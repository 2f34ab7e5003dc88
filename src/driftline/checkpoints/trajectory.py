"""A trajectory: ordered checkpoints of the same parameters, readable by slice in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from driftline.checkpoints import dtypes
from driftline.checkpoints.attempts import two_runs
from driftline.checkpoints.bases import is_change, on_bases
from driftline.checkpoints.composed import window
from driftline.checkpoints.discovery import choose_steps, find_steps, folder_of, run_folder, spelled
from driftline.checkpoints.jumps import Regrounded, read_jumps, regrounded
from driftline.checkpoints.layouts import Checkpoint
from driftline.checkpoints.matching import hugging_face_names, matched
from driftline.checkpoints.opening import open_checkpoint
from driftline.checkpoints.reasons import grouped
from driftline.checkpoints.tensors import TensorInfo, read_each
from driftline.checkpoints.ties import input_embedding, output_embedding
from driftline.errors import InputError, UnreadableCheckpoint
from driftline.files import remote

_WEIGHTS = ("weight", "bias", "_proj")  # ends of names of what is no buffer
_LARGEST_BUFFER, _END = 1 << 24, 1 << 16  # elements


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
        carried: the tensors of the first checkpoint, the base, that no other has.
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
    carried: dict[str, TensorInfo] = field(default_factory=dict)
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
        return sum(info.read_bytes for tensor in self.tensors for info in tensor.stored)

    @property
    def unmeasured(self) -> int:
        """Weights of the last checkpoint that take no part: floating ones that are not a copy of others."""
        last, measured = self.checkpoints[-1], {tensor.name: tensor.size for tensor in self.tensors}
        return sum(
            info.size - measured.get(name, 0)
            for name, info in last.tensors.items()
            if name not in last.tied and info.dtype in dtypes.FLOATS
        )

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences that whoever reads its figures should know, each once."""
        opened = zip(self.steps, self.checkpoints, strict=True)
        return (*self.notes, *grouped((step, note) for step, checkpoint in opened for note in checkpoint.notes))

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
    name = remote.redacted(spelled(arguments))
    below = _open_base(base) if base is not None else None
    available = sorted({*folders, *found.skipped, *([0] if below else [])})
    chosen = {*choose_steps(available, steps), *([0] if below else [])}
    wanted = sorted(chosen & folders.keys())
    root = run_folder(arguments)
    jumps = regrounded(read_jumps(folder_of(root)), wanted) if root is not None and wanted else None
    skipped = {step: reason for step, reason in found.skipped.items() if step in chosen}
    skipped |= jumps.discarded if jumps else {}
    opened: dict[int, Checkpoint] = {}
    for step in wanted:
        if step in skipped or step not in folders:
            continue
        try:
            opened[step] = open_checkpoint(folders[step])
        except UnreadableCheckpoint as error:
            if strict:
                raise InputError(
                    f"{error} (--strict refuses a run with such a checkpoint): mend it, or choose others with --steps"
                ) from error
            skipped[step] = str(error)
    if below is not None:
        if 0 in folders and not (0 in opened and is_change(opened[0])):
            raise InputError(
                f"--base {below.path} would be step 0, but the run already has {folders[0]} as step 0: drop one"
            )
        opened = opened if 0 in opened else {0: below, **opened}
    if not opened:
        raise InputError(
            f"{name}: none of the {len(skipped)} checkpoints can be read ({'; '.join(grouped(dict(sorted(skipped.items()))))}): name "
            "a run with complete ones"
        )
    here = Path(root) if root is not None and not remote.is_address(root) else None
    same = matched(on_bases(hugging_face_names(opened), below, here))
    if below is not None and 0 in same.skipped:
        raise InputError(f"--base {same.skipped[0]}: give the model that this run began with")
    if strict and same.skipped:
        raise InputError(
            f"{next(iter(same.skipped.values()))} (--strict refuses a run with such a checkpoint): leave it out with --steps"
        )
    skipped = dict(sorted({**skipped, **same.skipped}.items()))
    opened = same.checkpoints
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
    first = next(iter(opened.values()))
    return Trajectory(
        name,
        tuple(opened),
        tuple(opened.values()),
        tensors,
        left_out,
        skipped,
        regrounded=regrounded(jumps.jumps, list(opened)) if jumps else None,
        carried={key: first.tensors[key] for key in _only_in_first(opened)},
        unused=found.unused,
        notes=(*found.notes, *two_runs(opened)),
    )


def _open_base(base: str | Path) -> Checkpoint:
    """The model named with --base.

    Raises:
        InputError: it is no folder, cannot be read, or is an adapter itself.
    """
    root = folder_of(base)
    try:
        with remote.faults(root):
            found = root.is_dir()
    except OSError as error:
        raise InputError(
            f"--base {root} cannot be read ({error.strerror}): check its address and permissions"
        ) from error
    if not found:
        raise InputError(
            f"--base {root} is not a folder: give that of the base model, or its address, such as hf://owner/name"
        )
    try:
        opened = open_checkpoint(root)
    except UnreadableCheckpoint as error:
        raise InputError(f"--base cannot be read ({error}): give the folder of the base model") from error
    if is_change(opened):
        raise InputError(f"--base {root} is a LoRA adapter itself: give the folder of the model that it was trained on")
    return opened


def _only_in_first(opened: dict[int, Checkpoint]) -> list[str]:
    """The tensors that the first checkpoint alone has: the base's, which trainers drop."""
    first, *others = opened.values()
    new = {info.shape for name, info in others[-1].tensors.items() if name not in first.tensors} if others else set()
    return [
        name
        for name, info in first.tensors.items()
        if others
        and name not in first.tied
        and info.shape not in new  # it may be the same under a name that is not known
        and not any(name in other.tensors for other in others)
    ]


def _shared_tensors(opened: dict[int, Checkpoint]) -> tuple[tuple[TensorSeries, ...], dict[str, str]]:
    """The tensors all checkpoints share, and the reason for every one left out."""
    last = list(opened.values())[-1]
    names = dict.fromkeys(last.tensors)
    for checkpoint in opened.values():
        names |= dict.fromkeys(checkpoint.tensors)
    tensors: list[TensorSeries] = []
    left_out = {name: why for checkpoint in opened.values() for name, why in checkpoint.left_out.items()}
    only = set(_only_in_first(opened))
    vocabulary = {input_embedding(names), output_embedding(names)}
    for name in names:
        if name in vocabulary and (common := _common_rows(name, opened)):
            tensors.append(common[0])
            left_out |= common[1]
            continue
        reason = _why_not(name, opened)
        if name in only:
            reason = f"only in {next(iter(opened.values())).path}: forecasts take it from there"
        if reason:
            left_out[name] = reason
            continue
        stored = tuple(checkpoint.tensors[name] for checkpoint in opened.values())
        if why := _constant_and_infinite(name, stored):
            left_out[name] = why
        else:
            tensors.append(TensorSeries(name, stored[-1].shape, stored))
    return tuple(tensors), left_out


def _common_rows(name: str, opened: dict[int, Checkpoint]) -> tuple[TensorSeries, dict[str, str]] | None:
    """The rows of an embedding that all checkpoints have, where its vocabulary was padded or resized."""
    infos = [checkpoint.tensors.get(name) for checkpoint in opened.values()]
    there = [info for info in infos if info is not None and len(info.shape) == 2 and info.dtype in dtypes.FLOATS]
    rows = {info.shape[0] for info in there}
    if len(there) < len(infos) or len(rows) < 2 or len({info.shape[1] for info in there}) > 1:
        return None
    if any(name in checkpoint.tied for checkpoint in opened.values()):
        return None
    fewest, width = min(rows), there[0].shape[1]
    stored = tuple(info if info.shape[0] == fewest else window(name, (fewest, width), info, 0) for info in there)
    why = f"rows that only some checkpoints have, as the vocabulary has {fewest} to {max(rows)} rows: the first {fewest} are measured"
    return TensorSeries(name, (fewest, width), stored), {f"{name}[{fewest}:]": why}


def _constant_and_infinite(name: str, stored: tuple[TensorInfo, ...]) -> str | None:
    """Why a buffer takes no part: a mask, say, which holds -inf in every checkpoint."""
    last = stored[-1]
    if name.endswith(_WEIGHTS) or last.remote or last.size > _LARGEST_BUFFER or last.below:
        return None
    ends = (last.values(0, min(_END, last.size)), last.values(max(last.size - _END, 0), last.size))
    if all(np.isfinite(values).all() for values in ends):
        return None
    values = last.values(0, last.size)
    if not all(np.array_equal(info.values(0, info.size), values, equal_nan=True) for info in stored):
        return None
    return "a buffer that holds infinity or NaN, the same in every checkpoint"


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
