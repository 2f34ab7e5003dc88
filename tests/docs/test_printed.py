"""Each text block of the documentation is what its command prints.

A text block belongs to the shell block right before it, or says above it which commands print it,
`<!-- printed by: driftline ... -->`, or why none does, `<!-- not run: reason -->`. It may be an excerpt. Everything here
is of one run of the demo, made once; its figures are taken with a tolerance, since processors round differently and a
reinforcement-learning run multiplies what they do. All others have to agree to the last digit but one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from blocks import PAGES, Block, blocks, parse
from printed import Tolerance, compare

_DEMO = ("driftline", "demo")
_OF_THE_DEMO = Tolerance(absolute=0.05, relative=0.25)
_TEXTS = [block for page in PAGES for block in blocks(page) if block.language == "text" and block.reason is None]


@dataclass(frozen=True)
class House:
    """A folder with the demo in it, and what the demo printed."""

    folder: Path
    printed: str

    def run(self, words: tuple[str, ...]) -> str:
        """What a command prints; one that was called before is called again, into a fresh folder."""
        if words == _DEMO:
            return self.printed
        if "--out" in words and (out := self.folder / words[words.index("--out") + 1]).exists():
            shutil.rmtree(out) if out.is_dir() else out.unlink()
        return _call(words, self.folder)


def _call(words: tuple[str, ...], folder: Path) -> str:
    command = [sys.executable, "-m", *words]
    result = subprocess.run(command, cwd=folder, env=os.environ.copy(), capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{' '.join(words)}: {result.stderr}"
    return result.stdout


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    folder = tmp_path_factory.mktemp("demo")
    return House(folder, _call(_DEMO, folder))


def test_every_text_says_what_prints_it() -> None:
    assert [block.name for block in _TEXTS if not block.printed_by] == []
    for block in _TEXTS:
        for program, *words in block.printed_by:
            assert program == "driftline"
            parse(words)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("block", [pytest.param(b, id=b.name) for b in _TEXTS])
def test_the_command_prints_it(block: Block, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python blocks that stand before it on its page are run first: one of them may make the run."""
    monkeypatch.chdir(house.folder)
    for before in blocks(block.page):
        if before.language == "python" and before.reason is None and before.line < block.line:
            exec(compile(before.code, before.name, "exec"), {})
    printed = "".join([house.run(words) for words in block.printed_by])
    of_the_demo = any("demo" in word for words in block.printed_by for word in words)
    assert compare(block.code, printed, _OF_THE_DEMO if of_the_demo else Tolerance()) == []


def test_figures_may_differ_a_little_and_words_not_at_all() -> None:
    near = Tolerance(absolute=0.05, relative=0.25)
    shown = "R² median     0.947   0.564\nLinear from step 0 to 150: a line forecasts it with skill .68."
    printed = "2,400 parameters\n\nR² median  0.948  0.564\n\nLinear from step 0 to 150: a line\nforecasts it with skill .61.\n"
    assert compare(shown, printed, near) == []
    assert compare(shown, printed, Tolerance()) == ["a line forecasts it with skill .68: printed is .61"]
    assert compare(shown, printed.replace(".61", ".40"), near) == ["a line forecasts it with skill .68: printed is .40"]
    assert "does not print" in compare(shown, printed.replace("Linear", "Not told"), near)[0]
    assert compare("2,366,400", "2,366,401", near) == []
    assert compare("-0.35", "0.54", near) != []
