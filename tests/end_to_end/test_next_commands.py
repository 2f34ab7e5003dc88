"""What a page says to type next is typed as it stands, whatever the paths are called, and works."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from conftest import walk_weights

MakeRun = Callable[..., Path]
STEPS = list(range(0, 120, 10))


@pytest.fixture
def shell(tmp_path: Path) -> Callable[[str], str]:
    """Runs a line in a shell whose PATH has a `driftline`, in a folder of its own; gives what it prints."""
    programs, place = tmp_path / "programs", tmp_path / "place"
    programs.mkdir()
    place.mkdir()
    program = programs / "driftline"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m driftline "$@"\n')
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}

    def run(line: str) -> str:
        done = subprocess.run(line, shell=True, cwd=place, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        return done.stdout

    return run


def next_commands(page: Path) -> list[str]:
    """What someone copies from the page."""
    found = re.findall(r'<div class="command"><pre><code>(.*?)</code></pre>', page.read_text(), re.DOTALL)
    return [html.unescape(re.sub(r"<[^>]*>", "", one)) for one in found]


def made(make_run: MakeRun, rng: np.random.Generator, place: Path, name: str, drift: float = 0.5) -> None:
    run = make_run(walk_weights(rng, STEPS, {"up.weight": (60, 50), "norm.weight": (50,)}, drift=drift))
    run.rename(place / name)


@pytest.mark.parametrize(
    ("run", "asked", "out"),
    [
        ("run", "driftline analyze --out a run", "a"),
        ("run", "driftline analyze --out=a run", "a"),
        ("my run", "driftline analyze 'my run' --out 'an out'", "an out"),
        ('it\'s "mine"', 'driftline analyze "it\'s \\"mine\\"" --out="it\'s out"', "it's out"),
        ("ünï/çødé", "driftline analyze ünï/çødé --steps 0:90 --out ñ", "ñ"),
        ("$HOME `x`; y", "driftline analyze '$HOME `x`; y' --clock step --out '$out'", "$out"),
    ],
)
def test_from_an_analysis_to_the_model(
    make_run: MakeRun,
    rng: np.random.Generator,
    tmp_path: Path,
    shell: Callable[[str], str],
    run: str,
    asked: str,
    out: str,
) -> None:
    """Analyze, then what its page says (back-tests, advice), then what that page says (the model), each as it stands."""
    place = tmp_path / "place"
    (place / run).parent.mkdir(exist_ok=True)
    made(make_run, rng, place, run)
    shell(asked)
    forecast, advice = next_commands(place / out / "report.html")
    assert "driftline advise" in advice
    assert "target: Extrapolate to step" in shell(advice)
    shell(forecast)
    tested = place / f"{out}-backtest"
    assert (tested / "backtest.json").is_file()
    (then,) = next_commands(tested / "report.html")
    assert "driftline extrapolate" in then
    shell(then)
    (model,) = place.glob("*-step-*")
    assert (model / "model.safetensors").is_file()
    assert sorted(path.name for path in place.iterdir()) == sorted({run.split("/")[0], out, tested.name, model.name})


def test_from_a_back_test_without_a_horizon_to_the_watch(
    make_run: MakeRun, rng: np.random.Generator, tmp_path: Path, shell: Callable[[str], str]
) -> None:
    place = tmp_path / "place"
    made(make_run, rng, place, "a walk", drift=0.0)
    shell("driftline backtest 'a walk' --out tested")
    (then,) = next_commands(place / "tested" / "report.html")
    assert then == "driftline watch 'a walk' --out tested-watch"
    shell(f"{then} --once --settle 0")
    assert (place / "tested-watch" / "summary.json").is_file()
