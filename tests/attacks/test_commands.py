"""A trainer's command that does not want to end, or that writes without end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from driftline.training.processes import descendants, last_lines, shorten

STARTS = "import os, signal, subprocess, sys, time; from pathlib import Path\n"
STUBBORN = "for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.signal(each, signal.SIG_IGN)\n"
READY = "Path('ready').write_text(str(os.getpid()))\ntime.sleep(1000)\n"
CHILD = f"{STARTS}{STUBBORN}{READY}"
BOUNDED = (
    "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))\n"  # lest it outlives a killed test
)
COMMANDS = {
    "hangs": STARTS + READY,
    "ignores signals": CHILD,
    "has a child in a session of its own": f"{STARTS}subprocess.Popen([sys.executable, '-c', {CHILD!r}], start_new_session=True); time.sleep(1000)",
    "has a daemon that left it": f"{STARTS}\nif os.fork() == 0:\n os.setsid()\n if os.fork(): os._exit(0)\n exec({CHILD!r})\ntime.sleep(1000)",
    "floods its output": f"{STARTS}{BOUNDED}Path('ready').write_text('')\nwhile True: os.write(1, b'x' * 65536); time.sleep(0.001)",
}


def reground(folder: Path, code: str) -> subprocess.Popen[str]:
    script = folder / "trainer.py"
    script.write_text(code)
    model = folder / "model"
    model.mkdir()
    program = f"""
import os
from pathlib import Path
from driftline.cli import main
import driftline.training.processes as processes
import driftline.training.command as command
processes._PATIENCE, processes._LONGEST, processes._KEPT = 1.5, 1 << 20, 1 << 19
import sys
sys.argv = ["driftline", "nothing"]
lock = os.open(".", os.O_RDONLY)
import signal
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
try:
    command.run([sys.executable, {str(script)!r}], Path("."), lock)
except KeyboardInterrupt:
    sys.exit(130)
"""
    return subprocess.Popen([sys.executable, "-c", program], cwd=folder, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path) -> None:
    until = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    time.sleep(0.2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("kind", sorted(COMMANDS))
def test_it_ends_with_all_that_it_started(kind: str, number: signal.Signals, tmp_path: Path) -> None:
    process = reground(tmp_path, COMMANDS[kind])
    wait_for(tmp_path / "ready")
    below = descendants(process.pid)
    assert below
    started = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - started < 30
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    assert "Traceback" not in said
    assert not [pid for pid in below if runs(pid)]


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_flood_leaves_a_bounded_log(tmp_path: Path) -> None:
    process = reground(tmp_path, COMMANDS["floods its output"])
    wait_for(tmp_path / "ready")
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert (tmp_path / "log.txt").stat().st_size <= (1 << 20) + 100


def test_of_a_log_that_is_too_long_the_end_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("".join(f"line {k}\n" for k in range(10_000)))
    shorten(log, longest=1 << 20, kept=100)
    assert log.stat().st_size > 50_000
    shorten(log, longest=10_000, kept=100)
    assert log.read_text().startswith("[what came before was too long to be kept]\n")
    assert log.read_text().endswith("line 9998\nline 9999\n")
    log.write_bytes(b"a\n" + b"\xff" * 100_000 + b"\nb")
    assert [len(line) for line in last_lines(log, 3)] == [501, 1]


def test_all_processes_below_one_are_found() -> None:
    code = "import subprocess, sys, time; subprocess.Popen(['sleep', '100']); print('on', flush=True); time.sleep(100)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = descendants(os.getpid())
        assert process.pid in found
        assert len(found - {process.pid}) >= 1
        for pid in descendants(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.kill()
