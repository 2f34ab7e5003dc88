"""The two ways a request can end badly.

`InputError` is the user's to mend: its message is one sentence that says what is wrong, where, and
what to do; the command line prints it and exits with 2. Any other exception is a bug of ours (exit 1).
"""

from __future__ import annotations


class InputError(Exception):
    """The input or the request is wrong; the message says what, where and what to do."""


class UnreadableCheckpoint(InputError):
    """One checkpoint is incomplete or damaged; others of the run may still be read."""


def first_line(error: BaseException) -> str:
    """What a library says of its error, in one line: its first, or its type's name where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
