"""`driftline reground`: re-grounding around any trainer that is a command.

    driftline reground --model BASE --m 20 --n 100 --cycles 12 --out OUT -- python train.py --model {model} --max-steps {steps} --output {output}

Each cycle runs the command from the last projected model, takes the furthest checkpoint that it left, and
projects it: Ŵ = model + alpha (checkpoint - model), alpha = (trained + n) / trained. The trainer starts
afresh in every cycle: its optimizer, schedule and data order with it, as in the paper's code.

    OUT/reground.json            what was asked; a second call must ask the same, or for more cycles
    OUT/jumps.json               the cycles that are finished
    OUT/cycle-K/trained/         {output} of the command
    OUT/cycle-K/log.txt          its output
    OUT/cycle-K/trained.json     written when it has ended well
    OUT/cycle-K/projected/       the projected model
    OUT/final/                   the last of these

A call that was stopped, however, goes on at the first thing that is not finished.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from driftline.checkpoints.jumps import NAME, Jump, Jumps, read_jumps, write_jumps
from driftline.checkpoints.trajectory import Trajectory, open_trajectory
from driftline.errors import InputError, in_one_sentence
from driftline.files.atomic import replace_text
from driftline.files.json import json_text, read_json
from driftline.files.lock import Held, held
from driftline.files.output import output_folder, refuse_occupied
from driftline.files.record import Record, read_record, write_record
from driftline.forecast.request import ForecastRequest
from driftline.training.command import PLACES, fill, run, with_preset
from driftline.training.furthest import furthest_checkpoint
from driftline.writing.extrapolate import extrapolate
from driftline.writing.storage import DTYPES, NORM_LAYERS, Storage

MARK = "reground.json"


class AskedRegrounding(Record):
    """`reground.json`: a `RegroundingPlan` as it was asked for."""

    model: str
    m: int
    n: int
    cycles: int
    command: list[str]
    preset: str | None
    keep: list[str]
    dtype: str


@dataclass(frozen=True)
class RegroundingPlan:
    """What to do.

    Attributes:
        model: folder of the model to start from.
        m, n: trained and projected steps of each cycle.
        command: the trainer's, with {model}, {steps} and {output} where they belong.
        preset: `verl` adds the arguments that hold them.
        keep: tensors copied from the trained checkpoint.
        dtype: of the projected models; `same` is that of the trained checkpoint.
    """

    model: Path
    m: int
    n: int
    cycles: int
    command: tuple[str, ...]
    preset: str | None = None
    keep: tuple[str, ...] = NORM_LAYERS
    dtype: str = "same"

    def asked(self) -> AskedRegrounding:
        return AskedRegrounding(
            model=str(self.model),
            m=self.m,
            n=self.n,
            cycles=self.cycles,
            command=list(self.command),
            preset=self.preset,
            keep=list(self.keep),
            dtype=self.dtype,
        )


def reground(
    asked: RegroundingPlan, out: Path, *, overwrite: bool = False, say: Callable[[str], None] = lambda sentence: None
) -> Jumps:
    """Run the cycles that are not finished; returns the contents of `jumps.json`.

    Args:
        overwrite: start again in an `out` that holds an earlier re-grounding.
        say: told in a sentence what happens.

    Raises:
        InputError: the request cannot work, `out` holds something else, the command left no usable checkpoint.
        CommandFailed: the command failed.
    """
    command = with_preset(asked.command, asked.preset)
    _check(asked, command)
    request = asked.asked()
    _refuse_foreign(request, out, overwrite=overwrite)
    with _only_one(out) as lock:
        _claim(request, out, overwrite=overwrite)
        jumps = read_jumps(out)
        if len(jumps) < asked.cycles:
            shutil.rmtree(out / "final", ignore_errors=True)  # of a request for fewer cycles
        for cycle in range(len(jumps) + 1, asked.cycles + 1):
            jumps.append(_cycle(asked, command, out, cycle, jumps, lock, say))
            write_jumps(out, jumps)
        if not (out / "final").is_dir():
            with output_folder(out / "final") as folder:
                shutil.copytree(out / f"cycle-{len(jumps)}" / "projected", folder, dirs_exist_ok=True)
    return jumps


def _cycle(
    asked: RegroundingPlan,
    command: list[str],
    out: Path,
    cycle: int,
    jumps: Jumps,
    lock: int,
    say: Callable[[str], None],
) -> Jump:
    """Train, unless that is done, and project."""
    folder = out / f"cycle-{cycle}"
    model = asked.model if cycle == 1 else out / f"cycle-{cycle - 1}" / "projected"
    start = int(jumps[-1].projected_to) if jumps else 0
    if not (folder / "trained.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)  # of a call that was stopped
        folder.mkdir()
        say(f"cycle {cycle} of {asked.cycles}: training {asked.m} steps from {model}, output in {folder / 'log.txt'}")
        started = time.monotonic()
        run([fill(word, model, asked.m, folder / "trained") for word in command], folder, lock)
        replace_text(folder / "trained.json", json_text({"seconds": time.monotonic() - started}))
    steps, checkpoint = furthest_checkpoint(folder / "trained", asked.m)
    started = time.monotonic()
    jump = Jump.after(jumps, start, start + steps, asked.n, accepted=True)
    trajectory = open_trajectory([f"0={model}", f"{steps}={checkpoint}"], strict=True)
    storage = Storage(keep=asked.keep, dtype=_dtype(asked, trajectory))
    extrapolate(trajectory, folder / "projected", ForecastRequest(alpha=jump.alpha), storage, overwrite=True)
    say(
        f"cycle {cycle} of {asked.cycles}: trained to step {jump.trained_to}, projected to {jump.projected_to} "
        f"in {folder / 'projected'}"
    )
    jump.model, jump.checkpoint, jump.projected = str(model), str(checkpoint), str(folder / "projected")
    jump.seconds_trained = _seconds(folder / "trained.json")
    jump.seconds_projected = time.monotonic() - started
    return jump


def _seconds(trained: Path) -> float:
    """How long a cycle's training took, as was noted when it ended."""
    with in_one_sentence(f"{trained} is damaged", f"remove {trained.parent} to train that cycle again"):
        return float(read_json(trained)["seconds"])


def _dtype(asked: RegroundingPlan, trajectory: Trajectory) -> str:
    """What to write: where the trainer saves in another dtype than it was given, the trainer's."""
    changed = [series.dtype for series in trajectory if series.stored[0].dtype != series.dtype]
    if asked.dtype != "same" or not changed:
        return asked.dtype
    return next((name for name, code in DTYPES.items() if code == changed[0]), "bfloat16")


def _check(asked: RegroundingPlan, command: list[str]) -> None:
    for name in ("m", "n", "cycles"):
        if getattr(asked, name) < 1:
            raise InputError(f"--{name} is {getattr(asked, name)}: it must be 1 or more")
    if asked.dtype != "same" and asked.dtype not in DTYPES:
        raise InputError(f"--dtype {asked.dtype!r} is unknown: choose same, {', '.join(DTYPES)}")
    if not asked.command:
        raise InputError("no command was given: put the trainer's command after --")
    missing = [place for place in PLACES if not any(place in word for word in command)]
    if missing:
        raise InputError(
            f"the command says nowhere {' or '.join(missing)}: put it where the trainer takes it, or use --preset"
        )
    if not asked.model.is_dir():
        raise InputError(f"--model {asked.model} is not a local folder: give the folder of the model to start from")
    open_trajectory([f"0={asked.model}"], strict=True)


def _refuse_foreign(request: AskedRegrounding, out: Path, *, overwrite: bool) -> None:
    """Refuse an `out` that holds something else than this re-grounding, or than any if it may be overwritten."""
    (out / f".{MARK}.partial").unlink(missing_ok=True)
    if overwrite or not (out / MARK).is_file():
        refuse_occupied(out, overwrite=overwrite, mark=MARK)
        return
    before = read_record(out / MARK, AskedRegrounding, what="driftline reground")
    if msgspec.structs.replace(before, cycles=request.cycles) != request:
        raise InputError(
            f"--out {out} holds a re-grounding that was asked otherwise, see {out / MARK}: repeat that request to go on, "
            "choose another folder, or add --overwrite to start again"
        )


def _claim(request: AskedRegrounding, out: Path, *, overwrite: bool) -> None:
    if overwrite:
        (out / NAME).unlink(missing_ok=True)  # first, so that no record of a finished cycle outlives the cycle
        for folder in (*out.glob("cycle-*"), out / "final"):
            shutil.rmtree(folder, ignore_errors=True)
    write_record(out / MARK, request)


@contextmanager
def _only_one(out: Path) -> Iterator[int]:
    """Hold the folder; the descriptor is handed to the trainer, so that one left running holds it too."""
    try:
        with held(out) as descriptor:
            yield descriptor
    except Held:
        raise InputError(
            f"--out {out} is in use by another re-grounding, or by a trainer that one left running: end it first"
        ) from None
