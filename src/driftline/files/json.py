"""JSON for other programs, and JSON that comes with a checkpoint, read with a bound on what a hostile one can take."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from driftline.files import remote
from driftline.files.regular import open_regular, read_given

LIMIT = 64 << 20  # bytes; a log of a hundred thousand steps is a third of it


def read_json(path: Path) -> Any:
    """What the file holds.

    Raises:
        OSError: it is not there, or cannot be read.
        ValueError: it is not JSON, is nested too deeply, or is larger than 64 MiB.
    """
    with remote.faults(path), open_regular(path) as file:
        text = file.read(LIMIT + 1)
    if len(text) > LIMIT:
        raise ValueError(f"more than {LIMIT >> 20} MiB")
    return parsed(text)


def read_given_json(path: Path) -> Any:
    """What a file that the user named holds, which may be a pipe.

    Raises:
        OSError, ValueError: as of `read_json`.
    """
    return parsed(read_given(path, LIMIT))


def json_line(text: str) -> Any:
    """What a line of text of somebody else's holds.

    Raises:
        ValueError: it is not JSON, is nested too deeply, or has half a character (a lone surrogate), which no file or
            tokenizer takes; says which.
    """
    value = parsed(text)
    if "\\ud" in text.lower():
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("half of a surrogate pair stands alone in it") from error
    return value


def parsed(text: str | bytes) -> Any:
    """What a text holds.

    Raises:
        ValueError: it is not JSON, is nested too deeply, or has a number of thousands of digits.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except json.JSONDecodeError as error:
        raise ValueError(error.msg) from error
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error
    except ValueError as error:  # of an integer that Python does not take
        raise ValueError("a number of thousands of digits") from error


def json_text(value: Any) -> str:
    """JSON of plain values and numpy's: a number that is not finite becomes null."""
    return json.dumps(finite(value), indent=2, allow_nan=False) + "\n"


def finite(value: Any) -> Any:
    """Plain Python values, None in place of numbers that are not finite."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if hasattr(value, "tolist"):  # numpy's arrays and scalars
        return finite(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
