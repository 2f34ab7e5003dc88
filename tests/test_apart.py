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


class Panic(BaseException):
    """As a library in Rust raises it: no `Exception`."""


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
        case "panic":
            raise Panic("index out of bounds\nand more")
        case "exit":
            sys.exit("not yours to say")
        case "print":
            print("to standard output", flush=True)
            os.write(2, b"thread panicked, stack backtrace: and so on")
            return value
        case "abort":
            os.write(2, b"memory allocation of 5 bytes failed")
            os.kill(os.getpid(), signal.SIGKILL)
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


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("raise", "what it says$"),
        ("recurse", "maximum recursion depth"),
        ("panic", "index out of bounds$"),
        ("exit", "not yours to say$"),
    ],
)
def test_what_fails_says_why_and_the_next_is_answered(apart: Apart, what: str, said: str) -> None:
    with pytest.raises(Refused, match=f"^{said}"):
        apart(what)
    assert apart("echo", what) == what


def test_a_library_that_panicked_is_not_asked_again(apart: Apart) -> None:
    before = apart("pid")
    with pytest.raises(Refused):
        apart("raise")
    assert apart("pid") == before
    with pytest.raises(Refused):
        apart("panic")
    assert apart("pid") != before


@pytest.mark.parametrize("debug", ["0", "1"])
def test_what_is_printed_there_is_for_debugging(
    debug: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DRIFTLINE_DEBUG", debug)
    apart = Apart(doing, seconds=1.0)
    assert apart("print", 5) == 5
    with pytest.raises(TooMuch, match="memory"):
        apart("abort")
    out, said = capfd.readouterr()
    assert (out != "", "backtrace" in said, "allocation" in said) == (debug == "1",) * 3


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
