"""The command line: parse, run, print. What each command does is in `commands`."""

from __future__ import annotations

import atexit
import dataclasses
import difflib
import gc
import io
import os
import signal
import sys
import textwrap
from typing import Any

from driftline._version import __version__
from driftline.commands import COMMANDS, GROUPS, command_named, request_type
from driftline.errors import InputError
from driftline.files.remote import redacted
from driftline.plain import plain, plainly

_ABOUT = "Measure, judge and forecast RLVR training runs."
_FIRST = f"""driftline {__version__}: measure, judge and forecast RLVR training runs.

Start here:
  driftline demo                    a real small run, made and analysed here
  driftline inspect RUN             what a folder of checkpoints holds
  driftline analyze RUN --out DIR   how straight it is, and what that means
  driftline backtest RUN --out DIR  how far ahead it can be forecast
  driftline advise RUN              what it says to do next
  driftline extrapolate RUN --to STEP --out MODEL    the forecast model

All commands: driftline --help; what one takes: driftline COMMAND --help
Completion in your shell: driftline --tyro-print-completion bash (or zsh)
"""


def _end() -> None:
    """Nothing is looked through at the end of a command on weights; libraries of models count what is then left over."""
    if "torch" not in sys.modules:
        gc.freeze()


def main() -> None:
    """Entry point: 0 done; 2 the input or the request is wrong, in one sentence; 1 a bug of ours."""
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")  # numpy's idle threads sleep, where they would turn in a loop
    gc.set_threshold(5000)  # a start makes 200,000 objects that stay: by default they are looked through 300 times,
    atexit.register(_end)  # and at the end once more, which takes longer than all of that
    signal.signal(signal.SIGTERM, _terminated)
    for stream in (sys.stdout, sys.stderr):  # what is printed may have names in it that are not UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        match sys.argv[1:]:
            case []:
                print(_FIRST, end="")
            case ["--version"]:
                print(f"driftline {__version__}")
            case ["--help" | "-h"]:
                print(_overview(), end="")
            case ["--tyro-print-completion" | "--tyro-write-completion", *_] as words:
                _complete(words)
            case [name, *words]:
                _refuse_unknown(name)
                request = parse(name, _prepared(name, words))
                with plainly():
                    _answer(name, request)
    except InputError as error:
        code = getattr(error, "exit_code", None)  # a trainer's command that failed: its last lines, and its own code
        print(plain(redacted(f"driftline: {error if code else ' '.join(str(error).split())}")), file=sys.stderr)
        sys.exit(code or 2)
    except KeyboardInterrupt:
        _end_when_told_again()
        print("driftline: stopped", file=sys.stderr)
        sys.exit(130)


def _terminated(*_: Any) -> None:
    """End, so that half-written results are removed."""
    _end_when_told_again()
    sys.exit(143)


def _end_when_told_again() -> None:
    """An interpreter that ends may wait for threads, and shows where it was when it is stopped in that."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda told, _: os._exit(128 + told))


def parse(name: str, words: list[str]) -> Any:
    """The request that the words of a command line make; exits where they make none."""
    import tyro

    ours, rest = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    request: Any = tyro.cli(request_type(name), args=ours, prog=f"driftline {name}", config=_tyro_config())
    taking = [field.name for field in dataclasses.fields(request) if field.metadata.get("rest")]
    return dataclasses.replace(request, **{taking[0]: tuple(rest)}) if taking else request


def _prepared(name: str, words: list[str]) -> list[str]:
    """The words as the command wants them parsed; `train` spells out its configuration file."""
    prepare = getattr(command_named(name), "prepare", None)
    return prepare(words) if prepare else words


def _tyro_config() -> tuple[Any, ...]:
    import tyro

    return tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes


def _answer(name: str, request: Any) -> None:
    """Run a request, and print its record: for people, or as JSON."""
    from driftline.commands.requests import answer

    command = command_named(name)
    record = answer(command, request)
    if record is None:
        return
    options = getattr(request, "printing", request)
    if getattr(options, "json", False):
        from driftline.files.record import record_text

        print(record_text(getattr(record, "records", record)), end="")
    else:
        command.show(record, request)


def _overview() -> str:
    """All commands, in groups, the most used first."""
    lines = ["usage: driftline COMMAND ...", "", _ABOUT]
    for group, names in GROUPS.items():
        lines += ["", f"{group}:"]
        for name in names:
            about = (request_type(name).__doc__ or "").split("\n")[0]
            lines += textwrap.wrap(about, 80, initial_indent=f"  {name:<13}", subsequent_indent=" " * 15)
    return "\n".join([*lines, "", "What one takes: driftline COMMAND --help", ""])


def _complete(words: list[str]) -> None:
    """Completion for a shell, of all commands."""
    import tyro

    commands: dict[str, Any] = {name: request_type(name) for name in COMMANDS}
    tyro.extras.subcommand_cli_from_dict(commands, args=words, prog="driftline", config=_tyro_config())


def _refuse_unknown(command: str) -> None:
    """Raise `InputError` for a word that is no command, and name the one it looks like."""
    if command in COMMANDS:
        return
    if command.startswith("-"):
        raise InputError(f"{command} is no option of driftline itself: name a command first, see driftline --help")
    near = difflib.get_close_matches(command, COMMANDS, 1)
    meant = f"use {near[0]}, or see driftline --help" if near else f"choose {', '.join(COMMANDS)}"
    raise InputError(f"{command!r} is no command: {meant}")


if __name__ == "__main__":
    main()
