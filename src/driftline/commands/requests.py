"""Requests as data: made from options by name, and spelled out again as the words of a command line.

What a page or a terminal offers to do next is a request, spelled out here; so it names the run, the steps and the
folders that were asked about, whatever characters are in them.
"""

from __future__ import annotations

import errno
import math
import os
import re
import shlex
import sys
import traceback
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from tyro.conf import Positional

from driftline.errors import InputError
from driftline.files.remote import redacted

_DIGITS = 18  # of any whole number that is given
_SHOWN = 200  # characters of a name in a sentence
_POSITIONAL = Positional[int].__metadata__[0]  # type: ignore[attr-defined]
Request = TypeVar("Request")


@dataclass(frozen=True)
class Next:
    """What could be done next: why, and the request for it."""

    why: str
    request: Any


def make(kind: type[Request], **options: Any) -> Request:
    """A request from options by their names, wherever in it they belong.

    Args:
        options: as the flags are called, with `_` for `-`; `run` may be an open `Trajectory`, a path, or several.

    Raises:
        InputError: no such option, or one that must be given is not there.
    """
    taken: set[str] = set()
    if hasattr(options.get("run"), "checkpoints"):
        options = {**options, **_reopening(options["run"]), "opened": options["run"]}
    request = _filled(kind, options, taken)
    unknown = sorted(options.keys() - taken)
    if unknown:
        raise InputError(
            f"{kind.__name__.lower()} has no option {unknown[0]!r}: give those that driftline {kind.__name__.lower()} --help names"
        )
    return request


def _filled(kind: type[Request], options: dict[str, Any], taken: set[str]) -> Request:
    types = get_type_hints(kind)
    values: dict[str, Any] = {}
    for field in fields(kind):  # type: ignore[arg-type]
        if is_dataclass(types[field.name]):
            values[field.name] = _filled(types[field.name], options, taken)
            continue
        if field.name not in options:
            if field.default is MISSING and field.default_factory is MISSING:
                raise InputError(f"{field.name} is missing: give {field.name}=")
            continue
        taken.add(field.name)
        values[field.name] = _as(types[field.name], options[field.name])
    return kind(**values)


def answer(command: Any, request: Any) -> Any:
    """What a command gives, for the command line as for Python.

    Raises:
        InputError: also of a name that the system does not take, and of a disk or a folder that fails it.
    """
    must_be_meant(request)
    try:
        return command.run(request)
    except ConnectionError:  # whoever reads what is printed has gone
        raise
    except OSError as error:
        if error.errno is None:
            raise
        if os.environ.get("DRIFTLINE_DEBUG") == "1":
            traceback.print_exc(file=sys.stderr)
        raise InputError(_failed(error)) from error


def _failed(error: OSError) -> str:
    name = "a file" if error.filename is None else str(error.filename)
    if error.errno == errno.ENAMETOOLONG:
        return f"{name[:_SHOWN]}… is a longer name than the system takes: give a shorter one"
    return f"{name[:_SHOWN]} cannot be read or written ({error.strerror}): mend that, and repeat the call"


def must_be_meant(request: Any) -> None:
    """Refuse numbers and names that nobody can mean, before anything is made of them.

    Raises:
        InputError: a number that is not finite or has too many digits, a seed below 0, a NUL in a name; names its flag.
    """
    for field in fields(request):
        value = getattr(request, field.name)
        if is_dataclass(value) and field.compare:
            must_be_meant(value)
            continue
        for one in value if isinstance(value, (tuple, list)) else (value,):
            if unmeant := _unmeant(field.name, one):
                wrong, wanted = unmeant
                raise InputError(f"--{field.name.strip('_').replace('_', '-')} {wrong}: {wanted}")


def _unmeant(name: str, value: Any) -> tuple[str, str] | None:
    """What is wrong with the value of an option, and what it must be."""
    if isinstance(value, int) and abs(value) >= 10**_DIGITS:
        return f"is a number of more than {_DIGITS} digits", "it must be smaller"
    if name == "seed" and isinstance(value, int) and value < 0:
        return f"is {value}", "it must be 0 or above"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is not a finite number", "give one"
    if isinstance(value, (str, Path)) and "\0" in str(value):
        return "has a NUL in it, which no name has", "leave it out"
    return None


def _as(hint: Any, value: Any) -> Any:
    """A value as its option has it: a path for a text, a text for steps, a tuple for one value or a list of them."""
    kinds = (hint, *get_args(hint))
    if str in kinds and get_origin(hint) is not tuple and not isinstance(value, (str, Path, type(None))):
        return ",".join(map(str, value)) if isinstance(value, Sequence) else str(value)
    if isinstance(value, str) and Path in kinds and get_origin(hint) is not tuple:
        return Path(value)
    if get_origin(hint) is tuple:
        values = [value] if isinstance(value, (str, Path, int)) else list(value)
        return tuple(get_args(hint)[0](one) for one in values)
    return value


def _reopening(opened: Any) -> dict[str, Any]:
    """The options that open the same checkpoints again: by their folders, where the run is no folder itself."""
    if len(named(opened.name)) > 1:
        return {"run": [f"{step}={folder}" for step, folder in zip(opened.steps, opened.folders, strict=True)]}
    return {"run": opened.name, "steps": list(opened.steps)}


def words(request: Any) -> list[str]:
    """The command line that asks for a request, as words: `driftline`, the command, what it is of, its options."""
    positional, named, rest = _spelled(request)
    end = ["--", *rest] if rest else []
    return ["driftline", type(request).__name__.lower(), *positional, *named, *end]


def command_line(request: Any) -> str:
    """The same, quoted for a shell; what is secret in an address is left out."""
    return quoted(words(request))


def spelled_out(steps: Sequence[Next]) -> list[tuple[str, list[str]]]:
    """Why, and the words of the command, of each: as pages draw them."""
    return [(step.why, [redacted(word) for word in words(step.request)]) for step in steps]


def quoted(spelled: Sequence[str]) -> str:
    return shlex.join(map(redacted, spelled))


def _spelled(request: Any) -> tuple[list[str], list[str], list[str]]:
    """Positional words, options that differ from their defaults, and what follows `--`."""
    positional: list[str] = []
    named: list[str] = []
    rest: list[str] = []
    types = get_type_hints(type(request), include_extras=True)
    for field in fields(request):
        value = getattr(request, field.name)
        if not field.compare:  # not of the command line
            continue
        if is_dataclass(value):
            for whole, part in zip((positional, named, rest), _spelled(value), strict=True):
                whole += part
        elif field.metadata.get("rest"):
            rest += value
        elif value is None or value == field.default:
            continue
        elif _POSITIONAL in getattr(types[field.name], "__metadata__", ()):
            positional += [f"./{word}" if word.startswith("-") else word for word in _values(value)]
        else:
            flag = f"--{field.name.strip('_').replace('_', '-')}"
            spelled = _values(value)
            if value is True:
                named.append(flag)
            elif spelled[0].startswith("-"):  # not to be taken for an option
                named.append(f"{flag}={spelled[0]}")
            else:
                named += [flag, *spelled]
    return positional, named, rest


def _values(value: Any) -> list[str]:
    if isinstance(value, (tuple, list)):
        return [str(item) for item in value]
    return [f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)]


def named(run: str) -> tuple[str, ...]:
    """The words that ask for a run, from its name in a record: a folder or an address, `STEP=PATH` pairs, or both."""
    return tuple(re.split(r", (?=\d+=)", run))


def beside(out: Path, suffix: str) -> Path:
    """A folder beside another, for the result of what comes next."""
    return out.with_name(f"{out.name}{suffix}")
