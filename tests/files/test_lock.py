"""A folder is held by one process at a time, and let go of however that ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from driftline.files.lock import Held, held, hold


def test_a_held_folder_is_refused_until_it_is_let_go(tmp_path: Path) -> None:
    with held(tmp_path / "new") as _, pytest.raises(Held):
        hold(tmp_path / "new")
    os.close(hold(tmp_path / "new"))


def test_a_killed_process_lets_go(tmp_path: Path) -> None:
    script = f"import os; from pathlib import Path; from driftline.files.lock import hold; hold(Path({str(tmp_path)!r})); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 9
    os.close(hold(tmp_path))
