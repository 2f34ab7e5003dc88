"""The end of a server's process: at once, with the exit code of the signal that asked for it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def leave(sig: int, frame: FrameType | None = None) -> NoReturn:
    """End the process now.

    A model in a long pass cannot be interrupted, and taking down an interpreter with torch in it takes seconds.
    """
    if sig == signal.SIGINT:
        with contextlib.suppress(OSError):  # nobody reads it
            os.write(2, b"driftline: stopped\n")
    os._exit(128 + sig if sig else 1)


def leave_when_told() -> None:
    """Have the signals that ask for it end the process, from now on; there is nothing yet that wants an end in good form."""
    if threading.current_thread() is threading.main_thread():
        for sig in SIGNALS:
            signal.signal(sig, leave)
