"""One environment per trainer: `.venv-trainers/NAME` holds its package, at the version of `NAME/requirements.txt`.

`python tests/trainers/environments.py` makes them all (`make test-trainers` calls it). A trainer's own requirements
would pull a CUDA build of torch, vLLM and more, gigabytes that saving a checkpoint never touches, so its package is
installed alone, with what its checkpoint code imports; a `.pth` file lets it see the rest (torch, transformers, peft)
in the development environment, after its own. What cannot be installed leaves a word in `failed.txt`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parents[1] / ".venv-trainers"
TRAINERS = sorted(path.parent.name for path in HERE.glob("*/save.py"))


def python_of(trainer: str) -> str:
    """The interpreter that runs `TRAINER/save.py`: this one, where torch's own writer stands for the trainer's.

    Skips the test, and says why, where the trainer's package is not installed.
    """
    if not _requirements(trainer).is_file():
        return sys.executable
    folder = ENVIRONMENTS / trainer
    if (folder / "failed.txt").is_file():
        pytest.skip(f"{trainer} could not be installed: {(folder / 'failed.txt').read_text().strip()}")
    if not (folder / "made.txt").is_file():
        pytest.skip(f"{trainer} is not installed here: make test-trainers does that")
    return str(folder / "bin" / "python")


def make(trainer: str) -> str:
    """The environment of one trainer, made anew where its requirements changed; returns a sentence about it."""
    requirements, folder = _requirements(trainer), ENVIRONMENTS / trainer
    if not requirements.is_file():
        return f"{trainer}: nothing to install"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    made = folder / "made.txt"
    if made.is_file() and made.read_text() == wanted:
        return f"{trainer}: installed"
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    pip += [
        "--ignore-requires-python",
        "--requirement",
        str(requirements),
    ]  # 3.12 is asked for by code that runs on 3.11
    installed = subprocess.run(pip, capture_output=True, text=True)
    if installed.returncode:
        reason = next((line for line in installed.stderr.splitlines() if line.startswith("ERROR")), installed.stderr)
        (folder / "failed.txt").write_text(reason)
        return f"{trainer}: not installed: {reason}"
    packages = sysconfig.get_path("purelib", vars={"base": str(folder)})
    # only now, so that pip takes nothing of the development environment for its own
    Path(packages, "development.pth").write_text(sysconfig.get_path("purelib") + "\n")
    made.write_text(wanted)
    return f"{trainer}: installed"


@dataclass(frozen=True)
class Written:
    """Runs that a trainer wrote: `folder(case)`, with `run`, `truth` and, of most, `base` in it."""

    out: Path

    def folder(self, case: str) -> Path:
        failed = self.out / case / "failed.txt"
        assert not failed.is_file(), f"the trainer did not write {case}: {failed.read_text()}"
        return self.out / case


def write(trainer: str, request: pytest.FixtureRequest, factory: pytest.TempPathFactory) -> Written:
    """The runs of those cases that the chosen tests of a module name, written by one process: imports are slow.

    Skips the tests, and says why, where the trainer is not installed.
    """
    python = python_of(trainer)
    chosen = [item for item in request.session.items if item.path == request.path and isinstance(item, pytest.Function)]
    named = {str(item.callspec.params["case"]) for item in chosen}
    out = factory.mktemp(trainer)
    environment = os.environ | {"PYTHONPATH": str(HERE / "common"), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    command = [python, str(HERE / trainer / "save.py"), str(out), *sorted(named)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=out)
    assert done.returncode == 0, f"{trainer}/save.py: {done.stderr[-3000:]}"
    return Written(out)


def _requirements(trainer: str) -> Path:
    return HERE / trainer / "requirements.txt"


if __name__ == "__main__":
    for trainer in TRAINERS:
        print(make(trainer), flush=True)
