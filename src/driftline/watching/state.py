"""What `driftline watch` keeps of a run, on disk: of every checkpoint read, a record of constant size.

    DIR/state/plan/    which tensors are followed, which weights are sampled, and the first sketch that was taken
    DIR/state/rows/S/  checkpoint S: its sampled weights, its sketch less that first one, and inner products with
                       the sketches of every checkpoint that was read before it
    DIR/state/passed.json     of a long run, the checkpoints that were read and are not kept, while their folders are there
    DIR/state/refused.json    checkpoints that were read and are not to be read again

Each of these appears in one piece or not at all, and nothing else is remembered, so a process that is killed
at any moment loses at most the checkpoint that it was reading. Rows may be added in any order of steps.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from driftline.checkpoints.bases import is_change
from driftline.checkpoints.trajectory import Trajectory
from driftline.errors import InputError, UnreadableCheckpoint, in_one_sentence
from driftline.files.atomic import replace_text
from driftline.files.fingerprint import digest
from driftline.files.json import json_text, read_json
from driftline.files.lock import Held, held
from driftline.files.output import output_folder
from driftline.files.regular import open_regular
from driftline.watching.row import Passed, ReadCheckpoint, product
from driftline.watching.sketch import SAMPLE, TensorRange, parts_of, read_checkpoint, sample_positions
from driftline.watching.thinning import FIRST, spread

_SEED = 0
_FEW = 64  # that were read and are not kept, before it is looked which of them are still there


class State:
    """The rows of one run under `folder`; held by one process at a time."""

    def __init__(self, folder: Path, run: str) -> None:
        self._folder = folder
        self.parts: list[TensorRange] = []
        self.left_out: dict[str, str] = {}
        self.positions = np.empty(0, np.int64)
        self._reference = np.empty(0)
        self.rows: dict[int, ReadCheckpoint] = {}
        self.refused: dict[int, tuple[str, str]] = {}  # step -> digest of files, reason
        self.apart, self._dropped = 0.0, 0  # see `thinning`; how many are not kept
        self.passed: dict[int, Passed] = {}
        self._forgotten: dict[int, int] = {}  # of those whose folders have gone, step -> when it was written
        self._many = _FEW
        with in_one_sentence(f"{folder} is damaged", "remove it to begin again"):
            self._load(run)
            self.refused = self._load_refused()
            self._load_passed()

    @property
    def parameters(self) -> int:
        return self.parts[-1].stop if self.parts else 0

    @property
    def thinned(self) -> bool:
        """Whether checkpoints were read that are not kept."""
        return self._dropped > 0

    @property
    def read_ever(self) -> int:
        return self._dropped + len(self.rows)

    def has(self, step: int) -> bool:
        """Whether it was read, kept or not."""
        return step in self.rows or step in self.passed

    # -- adding a checkpoint

    def add(
        self,
        step: int,
        opened: Trajectory,
        reopen: Callable[[int], Trajectory],
        files: str,
        written: int,
        run: str,
        *,
        unchanged: Callable[[], bool],
    ) -> bool:
        """Read one checkpoint; False where it holds what its row holds already.

        Args:
            opened: the checkpoint alone, as a trajectory; `reopen` gives that of another step.
            unchanged: whether the files are still those of `files`, asked after they were read.

        Raises:
            UnreadableCheckpoint: it cannot be read, holds other tensors, or was changed meanwhile.
        """
        if not self.parts:
            self._plan(opened, opened.left_out)
        elif (why := self._differs(opened)) is not None:
            others = [other for other in self.rows if other != step]
            if len(others) > 1:
                raise UnreadableCheckpoint(f"{opened.checkpoints[0].path}: {why}")
            self._plan_again(opened, reopen, others, why)
        sample, sketch = read_checkpoint({t.name: t for t in opened}, self.parts, self.positions)
        if not unchanged():
            raise UnreadableCheckpoint(f"{opened.checkpoints[0].path} changed while it was read")
        if self._reference.size == 0:
            self._write_plan(sketch, run)
        with np.errstate(over="ignore"):
            delta = (sketch - self._reference).astype(np.float32)
        if not np.isfinite(delta).all():
            raise UnreadableCheckpoint(f"{opened.checkpoints[0].path}: its weights moved further than float32 holds")
        content = digest(sample.tobytes() + delta.tobytes()) + f"@{step}"
        before = self.rows.get(step)
        if before is not None and before.content == content:  # the same weights, saved or copied anew
            self.rows[step] = replace(before, files=files, written=written)
            replace_text(self._row(step) / "row.json", json_text(asdict(self.rows[step])))
            return False
        passed = self.passed.get(step)
        if passed is not None and passed.content == content:
            self.passed[step] = replace(passed, files=files, written=written)
            self._write_passed()
            return False
        if before is not None or passed is not None or step in self._forgotten:
            self._roll_back(step, written)
        products = {row.content: product(delta, self._sketch(row.step)) for row in self.rows.values()}
        products[content] = product(delta, delta)
        dtypes = {tensor.name: tensor.dtype for tensor in opened}
        checkpoint = opened.checkpoints[0]
        row = ReadCheckpoint(
            step,
            str(checkpoint.path),
            checkpoint.layout,
            content,
            files,
            written,
            [dtypes[part.name] for part in self.parts],
            products,
            whole=not is_change(checkpoint),
        )
        with output_folder(self._row(step), overwrite=True, mark="row.json") as folder:
            sample.tofile(folder / "sample.f32")
            delta.tofile(folder / "sketch.f32")
            (folder / "row.json").write_text(json_text(asdict(row)))
        self.rows[step] = row
        return True

    def refuse(self, step: int, files: str, reason: str) -> None:
        """Remember not to read this checkpoint again, as long as its files stay as they are."""
        self.refused[step] = (files, reason)
        self._folder.mkdir(parents=True, exist_ok=True)
        replace_text(self._folder / "refused.json", json_text(self.refused))

    def _roll_back(self, step: int, written: int) -> None:
        """A run that was started again writes `step` anew: what it had written beyond is no part of it any more."""
        for other in [row for row in self.rows.values() if row.step > step and row.written < written]:
            self.refuse(other.step, other.files, f"rolled back: the run was started again and wrote step {step} anew")
            self._remove(other.step)
        later = {at: one for at, one in self.passed.items() if at >= step and one.written < written}
        for at, one in later.items():
            if at > step:
                self.refuse(at, one.files, f"rolled back: the run was started again and wrote step {step} anew")
            del self.passed[at]
            self._dropped -= 1
        if anew := [at for at, when in self._forgotten.items() if at >= step and when < written]:
            self._forgotten = {at: when for at, when in self._forgotten.items() if at not in anew}
            self._dropped -= len(anew)
            self._write_forgotten()
        self._write_passed()

    def thin(self, used: list[int]) -> None:
        """Keep of the checkpoints that are used the first ones and those that are spread over the run."""
        chosen, self.apart = spread(used, self.apart)
        gone = sorted(set(used[FIRST:]).difference(chosen))
        if not gone:
            return
        for step in gone:
            row = self.rows[step]
            self.passed[step] = Passed(row.path, row.content, row.files, row.written)
        self._dropped += len(gone)
        if len(self.passed) > self._many:  # of those whose folders were rotated away a new one is another run's
            there = {step: one for step, one in self.passed.items() if Path(one.path).is_dir()}
            self._forgotten |= {step: one.written for step, one in self.passed.items() if step not in there}
            self.passed = there
            self._many = 2 * len(self.passed) + _FEW
            self._write_forgotten()
        self._write_passed()
        for step in gone:
            self._remove(step)

    def _write_passed(self) -> None:
        there = {step: asdict(one) for step, one in self.passed.items()}
        if self._dropped or there:
            text = json_text({"apart": self.apart, "dropped": self._dropped, "there": there})
            replace_text(self._folder / "passed.json", text)

    def _write_forgotten(self) -> None:
        replace_text(self._folder / "forgotten.json", json_text(self._forgotten))

    def _differs(self, opened: Trajectory) -> str | None:
        shapes = {tensor.name: tensor.shape for tensor in opened}
        for part in self.parts:
            if part.name not in shapes:
                return f"it lacks tensor {part.name!r}, which the run's first checkpoint has"
            if shapes[part.name] != part.shape:
                here, first = list(shapes[part.name]), list(part.shape)
                return f"tensor {part.name!r} has shape {here} where the run's first checkpoint has {first}"
        return None

    # -- the plan

    def _plan(self, opened: Trajectory, left_out: dict[str, str]) -> None:
        self.parts, self.left_out = parts_of(opened), left_out
        self.positions = sample_positions(self.parameters, SAMPLE, _SEED)
        self._reference = np.empty(0)

    def _plan_again(self, opened: Trajectory, reopen: Callable[[int], Trajectory], others: list[int], why: str) -> None:
        """The second checkpoint holds other tensors than the first: follow what both have; the first is read again."""
        tensors, gone = opened.tensors, {}
        for step in others:
            try:
                shapes = {tensor.name: tensor.shape for tensor in reopen(step)}
            except InputError:
                continue  # rotated away: the run begins with this one
            tensors = tuple(tensor for tensor in tensors if shapes.get(tensor.name) == tensor.shape)
            shared = {tensor.name for tensor in tensors}
            gone = dict.fromkeys({t.name for t in opened} - shared, f"absent or of another shape at step {step}")
            gone |= dict.fromkeys(shapes.keys() - shared, f"absent or of another shape after step {step}")
        if not tensors:
            raise UnreadableCheckpoint(
                f"{opened.checkpoints[0].path} shares no tensor with the checkpoint before: {why}"
            )
        for name in ("rows", "plan"):
            shutil.rmtree(self._folder / name, ignore_errors=True)
        self.rows = {}
        self._plan(replace(opened, tensors=tensors), opened.left_out | gone)

    def _write_plan(self, sketch: np.ndarray, run: str) -> None:
        self._reference = sketch
        plan = {"run": run, "left_out": self.left_out, "tensors": [[part.name, part.shape] for part in self.parts]}
        with output_folder(self._folder / "plan", overwrite=True, mark="plan.json") as folder:
            self.positions.tofile(folder / "positions.i64")
            sketch.tofile(folder / "reference.f64")
            (folder / "plan.json").write_text(json_text(plan))

    # -- what is there

    def _load(self, run: str) -> None:
        for partial in [*self._folder.glob(".*"), *(self._folder / "rows").glob(".*")]:
            if partial.is_dir():
                shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
        plan = self._read_json(self._folder / "plan" / "plan.json")
        if plan is None:
            return
        if plan["run"] != run:
            raise InputError(f"--out {self._folder.parent} holds the watch of {plan['run']}: choose another folder")
        start = 0
        for name, shape in plan["tensors"]:
            self.parts.append(TensorRange(name, tuple(shape), start))
            start = self.parts[-1].stop
        self.left_out = plan["left_out"]
        self.positions = _numbers(self._folder / "plan" / "positions.i64", np.int64)
        self._reference = _numbers(self._folder / "plan" / "reference.f64", np.float64)
        for path in (self._folder / "rows").glob("*/row.json"):
            try:
                row = ReadCheckpoint(**self._read_json(path))
            except TypeError as error:
                raise InputError(f"{path} is not of this version: remove {self._folder} to begin again") from error
            sizes = [(path.parent / name).stat().st_size for name in ("sample.f32", "sketch.f32")]
            if sizes == [4 * self.positions.size, 4 * self._reference.size]:  # else it is read anew
                self.rows[row.step] = row

    def _read_json(self, path: Path) -> Any:
        try:
            return read_json(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is damaged ({error}): remove {self._folder} to begin again") from error

    def _load_refused(self) -> dict[int, tuple[str, str]]:
        found = self._read_json(self._folder / "refused.json") or {}
        return {int(step): (files, reason) for step, (files, reason) in found.items()}

    def _load_passed(self) -> None:
        found = self._read_json(self._folder / "passed.json")
        if found is None or not self.rows:
            return
        self.apart, self._dropped = found["apart"], found["dropped"]
        self.passed = {int(step): Passed(**one) for step, one in found["there"].items()}
        self._forgotten = {
            int(step): when for step, when in (self._read_json(self._folder / "forgotten.json") or {}).items()
        }
        for step in self.passed.keys() & self.rows.keys():  # killed before they were removed
            self._remove(step)

    def _row(self, step: int) -> Path:
        return self._folder / "rows" / str(step)

    def _remove(self, step: int) -> None:
        gone = self._folder / "rows" / f".{step}.gone"
        os.rename(self._row(step), gone)
        shutil.rmtree(gone, ignore_errors=True)
        del self.rows[step]

    def _sketch(self, step: int) -> np.ndarray:
        return _numbers(self._row(step) / "sketch.f32", np.float32)

    def gram(self, steps: list[int]) -> np.ndarray:
        """Inner products [T, T] of the sketches' deltas from the first checkpoint that was ever read."""
        rows = [self.rows[step] for step in steps]
        gram = np.empty((len(rows), len(rows)))
        for i, a in enumerate(rows):
            for j, b in enumerate(rows[: i + 1]):
                value = a.products.get(b.content, b.products.get(a.content))
                if value is None:
                    value = product(self._sketch(a.step), self._sketch(b.step))
                gram[i, j] = gram[j, i] = value
        return gram

    def samples(self, steps: list[int], columns: int) -> Iterator[tuple[int, np.ndarray]]:
        """The sampled weights of these checkpoints, so many columns at a time: first column, float32 [T, columns]."""
        paths = [self._row(step) / "sample.f32" for step in steps]
        for start in range(0, self.positions.size, columns):
            count = min(columns, self.positions.size - start)
            yield start, np.stack([_numbers(path, np.float32, count, start) for path in paths])


def _numbers(path: Path, dtype: type[np.generic], count: int = -1, first: int = 0) -> np.ndarray:
    """So many numbers of a file from the first on, all by default."""
    with open_regular(path) as file:
        return np.fromfile(file, dtype, count, offset=first * np.dtype(dtype).itemsize)


@contextmanager
def only_watch(state: Path) -> Iterator[None]:
    """Nobody else works on this state; given up by the system when the process ends, however it ends."""
    try:
        with held(state):
            yield
    except Held:
        raise InputError(f"--out {state.parent} is in use by another driftline watch: choose another folder") from None
