"""Work in a process of its own: what passes a bound ends, and the next call is answered."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from driftline import apart as apart_module
from driftline.apart import Apart, Refused, TooMuch


def doing(what: str, value: Any = None) -> Any:
    match what:
        case "echo":
            return value
        case "pid":
            return os.getpid()
        case "hang":
            while True:
                pass
        case "hang in C":
            return (10**7) ** (10**7)
        case "hoard":
            return len(bytearray(value << 20))
        case "hoard for good":
            kept = []
            while True:
                kept.append(bytearray(10 << 20))
        case "raise":
            raise ValueError("what it says\nand more")
        case "recurse":
            return doing("recurse")
        case "write much":
            return "x" * (65 << 20)
        case "be killed":
            os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError(what)


@pytest.fixture(scope="module")
def apart() -> Apart:
    return Apart(doing, seconds=1.0, mebibytes=256)


def test_it_returns_what_the_function_does_from_one_child(apart: Apart) -> None:
    value = {"a": [1, 2.5, None, "\ud800é"]}
    assert apart("echo", value) == value
    first, second = apart("pid"), apart("pid")
    assert first == second != os.getpid()


@pytest.mark.parametrize(
    ("what", "value", "said"),
    [
        ("hang", None, "more than 1 s"),
        ("hang in C", None, "more than 1 s"),
        ("hoard", 1024, "more than 256 MiB of memory"),
        ("hoard for good", None, "more than 256 MiB of memory"),
        ("write much", None, "more than 256 MiB of memory"),
        ("be killed", None, "more than 256 MiB of memory"),
    ],
)
def test_what_passes_a_bound_says_which_and_the_next_is_answered(
    apart: Apart, what: str, value: Any, said: str
) -> None:
    started = time.monotonic()
    with pytest.raises(TooMuch, match=f"^{said}$"):
        apart(what, value)
    assert time.monotonic() - started < 30
    assert apart("echo", what) == what


@pytest.mark.parametrize(("what", "said"), [("raise", "what it says"), ("recurse", "maximum recursion depth")])
def test_what_fails_says_why(apart: Apart, what: str, said: str) -> None:
    with pytest.raises(Refused, match=f"^{said}"):
        apart(what)


def test_values_that_are_nested_too_deeply_are_refused_and_end_nothing() -> None:
    answer = json.loads(apart_module._answer(len, b"[" * 100_000 + b"]" * 100_000, 64))
    assert answer == {"bound": False, "said": "values nested too deeply"}


def test_threads_may_share_it(apart: Apart) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda k: apart("echo", k), range(100))) == list(range(100))


def test_the_child_goes_with_what_it_works_for() -> None:
    apart = Apart(doing, seconds=1.0)
    child = apart("pid")
    del apart
    assert not os.path.exists(f"/proc/{child}")


def test_a_child_whose_parent_was_killed_at_work_ends() -> None:
    """Nobody is there to kill it."""
    code = """
import os, sys, threading
from driftline.apart import Apart

def work(what):
    while what == "hang":
        pass
    return os.getpid()

apart = Apart(work, seconds=1.0)
print(apart("pid"), flush=True)
threading.Timer(0.3, os.kill, (os.getpid(), 9)).start()
apart("hang")
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert parent.wait(30) == -signal.SIGKILL
    until = time.monotonic() + 20
    while (about := Path(f"/proc/{child}/status")).exists() and "State:\tZ" not in about.read_text():
        assert time.monotonic() < until
        time.sleep(0.05)
