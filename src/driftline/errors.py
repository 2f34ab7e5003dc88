"""The two ways a request can end badly.

`InputError` is the user's to mend: its message is one sentence that says what is wrong, where, and
what to do; the command line prints it and exits with 2. Any other exception is a bug of ours (exit 1).
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

_RUNS_CODE = {  # advice of libraries that is quoted to nobody: it would run what came with a file
    "weights_only": "it holds more than weights, or is damaged",
    "add_safe_globals": "it holds more than weights, or is damaged",
    "trust_remote_code": "it needs code of its own, which is not run",
    "allow_pickle": "it holds more than numbers, or is damaged",
}
_NO_UTF8 = ("UTF-8", "utf-8", "surrogates")  # how libraries speak of a name that is not
_ENDS = 120  # characters that are said of a long word
_LONG_WORD = re.compile(r"\S{1000,}")  # a whole path may have 4096, and rarely has a tenth
_LONGEST = 400  # characters of another's message; a library may print a whole file


class InputError(Exception):
    """The input or the request is wrong; the message says what, where and what to do.

    Of a name or a value that it quotes, which may be as long as a file, the beginning and the end are said.
    """

    def __str__(self) -> str:
        return _LONG_WORD.sub(lambda found: f"{found[0][:_ENDS]}…{found[0][-_ENDS:]}", super().__str__())


class UnreadableCheckpoint(InputError):
    """One checkpoint is incomplete or damaged; others of the run may still be read."""


def first_line(error: BaseException) -> str:
    """What a library says of its error, in one line: its first, or its type's name where it says nothing.

    Of advice to run what came with a file only the reason is said.
    """
    for advice, reason in _RUNS_CODE.items():
        if advice in str(error):
            return reason
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    said = f"no key {lines[0]}" if isinstance(error, KeyError) else lines[0]
    if said.endswith(":") and len(lines) > 1:  # the first only says of what the next speaks
        said = f"{said} {lines[1]}"
    return said if len(said) <= _LONGEST else f"{said[:_LONGEST]}…"


def has_failed(error: BaseException) -> bool:
    """Whether a library could not go on, by an exception or by a panic in Rust, which is none; not whether it was stopped."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


@contextmanager
def in_one_sentence(what: str, remedy: str) -> Iterator[None]:
    """Whatever a library raises within becomes an `InputError`: `what` (its first line): `remedy`.

    For input that a library reads by itself, which may raise anything for what is damaged. Its whole trace goes to
    standard error where DRIFTLINE_DEBUG is 1.
    """
    try:
        yield
    except InputError:
        raise
    except BaseException as error:
        if not has_failed(error):
            raise
        if os.environ.get("DRIFTLINE_DEBUG") == "1":
            traceback.print_exc(file=sys.stderr)
        if _is_odd(what) and any(word in str(error) for word in _NO_UTF8):
            raise InputError(
                f"{what} (its name is not UTF-8, and libraries take no other): rename it, or give a link to it"
            ) from error
        raise InputError(f"{what} ({first_line(error)}): {remedy}") from error


def _is_odd(text: str) -> bool:
    """Whether it quotes a name that is not UTF-8."""
    return any("\udc80" <= letter <= "\udcff" for letter in text)
