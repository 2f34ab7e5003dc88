"""The trainer's command: its places filled in, run to its end or stopped with all that it started."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from driftline.errors import InputError
from driftline.training.processes import last_lines, run_to_end

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


class CommandFailed(InputError):
    """The trainer's command ended with an error; `exit_code` is its own."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def run(command: list[str], folder: Path, lock: int) -> None:
    """Run the command to its end, its output in `log.txt`; it holds the lock too, in case it outlives this process.

    Raises:
        CommandFailed: it cannot be started, or fails.
    """
    log = folder / "log.txt"
    try:
        code = run_to_end(command, log, lock)
    except OSError as error:
        raise CommandFailed(f"the command cannot be started: {command[0]}: {error.strerror}", 127) from error
    if code:
        ended = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise CommandFailed(
            f"the command {ended}; {log} ends with:\n" + "\n".join(last_lines(log, _LAST_LINES)),
            code if code > 0 else 128 - code,
        )


def fill(word: str, model: Path, steps: int, output: Path) -> str:
    """A word of the command, with what stands for {model}, {steps} and {output}."""
    for place, value in zip(PLACES, (model, steps, output), strict=True):
        word = word.replace(place, str(value))
    return word


def with_preset(command: Sequence[str], preset: str | None) -> list[str]:
    """The command with the preset's arguments, save those that it has already.

    Raises:
        InputError: no preset is called so.
    """
    if preset is not None and preset not in PRESETS:
        raise InputError(f"--preset {preset!r} is unknown: choose {', '.join(PRESETS)}")
    added = PRESETS[preset] if preset else ()
    given = {word.lstrip("+").split("=")[0] for word in command}
    return [*command, *(word for word in added if word.split("=")[0] not in given)]
