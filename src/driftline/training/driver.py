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

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from driftline.checkpoints.discovery import find_steps
from driftline.checkpoints.jumps import NAME, Jumps, read_jumps, write_jumps
from driftline.checkpoints.layouts import huggingface
from driftline.checkpoints.trajectory import Trajectory, open_trajectory
from driftline.errors import InputError, UnreadableCheckpoint
from driftline.files.atomic import replace_text
from driftline.files.json import json_text
from driftline.files.lock import Held, held
from driftline.files.output import output_folder, refuse_occupied
from driftline.forecast.request import ForecastRequest
from driftline.writing.extrapolate import extrapolate
from driftline.writing.storage import DTYPES, NORM_LAYERS, Storage

MARK = "reground.json"
PLACES = ("{model}", "{steps}", "{output}")
PRESETS: dict[str, tuple[str, ...]] = {
    "verl": (
        "actor_rollout_ref.model.path={model}",
        "trainer.total_training_steps={steps}",
        "trainer.default_local_dir={output}",
        "trainer.save_freq={steps}",
        "trainer.resume_mode=disable",
        "actor_rollout_ref.actor.checkpoint.save_contents=[model,hf_model]",
    )
}
_LAST_LINES = 12
_PATIENCE = 30  # seconds that a trainer has to end when it is told to


class CommandFailed(InputError):
    """The trainer's command ended with an error; `exit_code` is its own."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Reground:
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


def reground(
    asked: Reground, out: Path, *, overwrite: bool = False, say: Callable[[str], None] = lambda sentence: None
) -> Jumps:
    """Run the cycles that are not finished; returns the contents of `jumps.json`.

    Args:
        overwrite: start again in an `out` that holds an earlier re-grounding.
        say: told in a sentence what happens.

    Raises:
        InputError: the request cannot work, `out` holds something else, the command left no usable checkpoint.
        CommandFailed: the command failed.
    """
    command = _filled_preset(asked)
    _check(asked, command)
    request = json.loads(json.dumps(asdict(asked), default=str))
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
    asked: Reground, command: list[str], out: Path, cycle: int, jumps: Jumps, lock: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Train, unless that is done, and project; the record for `jumps.json`."""
    folder = out / f"cycle-{cycle}"
    model = asked.model if cycle == 1 else out / f"cycle-{cycle - 1}" / "projected"
    start = jumps[-1]["projected_to"] if jumps else 0
    if not (folder / "trained.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)  # of a call that was stopped
        folder.mkdir()
        say(f"cycle {cycle} of {asked.cycles}: training {asked.m} steps from {model}, output in {folder / 'log.txt'}")
        started = time.monotonic()
        _run([_fill(word, model, asked.m, folder / "trained") for word in command], folder, lock)
        replace_text(folder / "trained.json", json_text({"seconds": time.monotonic() - started}))
    steps, checkpoint = furthest_checkpoint(folder / "trained", asked.m)
    started = time.monotonic()
    alpha = (steps + asked.n) / steps
    trajectory = open_trajectory([f"0={model}", f"{steps}={checkpoint}"], strict=True)
    storage = Storage(keep=asked.keep, dtype=_dtype(asked, trajectory))
    extrapolate(trajectory, folder / "projected", ForecastRequest(alpha=alpha), storage, overwrite=True)
    end = start + steps
    say(
        f"cycle {cycle} of {asked.cycles}: trained to step {end}, projected to {end + asked.n} in {folder / 'projected'}"
    )
    return {
        "cycle": cycle, "trained_from": start, "trained_to": end, "projected_to": end + asked.n, "alpha": alpha,
        "accepted": True, "model": str(model), "checkpoint": str(checkpoint), "projected": str(folder / "projected"),
        "seconds_trained": json.loads((folder / "trained.json").read_text())["seconds"],
        "seconds_projected": time.monotonic() - started,
    }  # fmt: skip


def _dtype(asked: Reground, trajectory: Trajectory) -> str:
    """What to write: where the trainer saves in another dtype than it was given, the trainer's."""
    changed = [series.dtype for series in trajectory if series.stored[0].dtype != series.dtype]
    if asked.dtype != "same" or not changed:
        return asked.dtype
    return next((name for name, code in DTYPES.items() if code == changed[0]), "bfloat16")


def furthest_checkpoint(output: Path, m: int) -> tuple[int, Path]:
    """Step and folder of the furthest complete checkpoint in `output`.

    The model that a trainer leaves in `output` itself when it ends is at step `m`.

    Raises:
        InputError: there is none, or one lies beyond `m`.
    """
    if not output.is_dir():
        raise InputError(f"the command left nothing at {output}: let it save its checkpoints to {{output}}")
    try:
        numbered = find_steps([output])
    except InputError:
        numbered = {}
    found = {step: place for step, folder in numbered.items() if (place := _model_in(folder)) is not None}
    if m not in found and (place := _model_in(output)) is not None:
        found[m] = place
    found.pop(0, None)
    if not found:
        shards = next((folder for folder in numbered.values() if any(folder.glob("actor/model_world_size_*"))), None)
        if shards is not None:
            raise InputError(
                f"{shards} holds shards only: let the command save Hugging Face weights too, with "
                "actor_rollout_ref.actor.checkpoint.save_contents=[model,hf_model]"
            )
        raise InputError(f"the command left no complete checkpoint in {output}: let it save one at its last step")
    if max(found) > m:
        raise InputError(f"the command left a checkpoint of step {max(found)} in {output}, although {{steps}} was {m}: let it stop there")  # fmt: skip
    return max(found), found[max(found)]


def _model_in(folder: Path) -> Path | None:
    """The complete model in a checkpoint's folder, or None."""
    for place in (folder, folder / "huggingface"):
        if huggingface.holds(place):
            try:
                return huggingface.open(place).model
            except UnreadableCheckpoint:
                continue
    return None


def _run(command: list[str], folder: Path, lock: int) -> None:
    """Run the command to its end, its output in `log.txt`; it holds the lock too, in case it outlives this process.

    Raises:
        CommandFailed: it cannot be started, or fails.
    """
    with open(folder / "log.txt", "wb") as log:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, pass_fds=(lock,), start_new_session=True
            )  # fmt: skip
        except OSError as error:
            raise CommandFailed(f"the command cannot be started: {command[0]}: {error.strerror}", 127) from error
        try:
            code = process.wait()
        except BaseException:  # stopped: the trainer and all that it started stop too
            _stop(process)
            raise
    if code:
        lines = (folder / "log.txt").read_text(errors="replace").splitlines()[-_LAST_LINES:]
        ended = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise CommandFailed(
            f"the command {ended}; {folder / 'log.txt'} ends with:\n" + "\n".join(lines),
            code if code > 0 else 128 - code,
        )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the command's whole process group, with patience."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _fill(word: str, model: Path, steps: int, output: Path) -> str:
    for place, value in zip(PLACES, (model, steps, output), strict=True):
        word = word.replace(place, str(value))
    return word


def _filled_preset(asked: Reground) -> list[str]:
    """The command with the preset's arguments, save those that it has already."""
    if asked.preset is not None and asked.preset not in PRESETS:
        raise InputError(f"--preset {asked.preset!r} is unknown: choose {', '.join(PRESETS)}")
    added = PRESETS[asked.preset] if asked.preset else ()
    given = {word.lstrip("+").split("=")[0] for word in asked.command}
    return [*asked.command, *(word for word in added if word.split("=")[0] not in given)]


def _check(asked: Reground, command: list[str]) -> None:
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


def _refuse_foreign(request: dict[str, Any], out: Path, *, overwrite: bool) -> None:
    """Refuse an `out` that holds something else than this re-grounding, or than any if it may be overwritten."""
    (out / f".{MARK}.partial").unlink(missing_ok=True)
    if overwrite or not (out / MARK).is_file():
        refuse_occupied(out, overwrite=overwrite, mark=MARK)
    elif json.loads((out / MARK).read_bytes()) | {"cycles": request["cycles"]} != request:
        raise InputError(
            f"--out {out} holds a re-grounding that was asked otherwise, see {out / MARK}: repeat that request to go on, "
            "choose another folder, or add --overwrite to start again"
        )


def _claim(request: dict[str, Any], out: Path, *, overwrite: bool) -> None:
    if overwrite:
        (out / NAME).unlink(missing_ok=True)  # first, so that no record of a finished cycle outlives the cycle
        for folder in (*out.glob("cycle-*"), out / "final"):
            shutil.rmtree(folder, ignore_errors=True)
    replace_text(out / MARK, json_text(request))


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
