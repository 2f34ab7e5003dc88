"""The workflow files name only what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / ".github").rglob("*.yml"))


@pytest.mark.parametrize("file", [pytest.param(f, id=f.name) for f in FILES])
def test_it_is_yaml_with_what_github_wants(file: Path) -> None:
    read = yaml.safe_load(file.read_text(encoding="utf-8"))
    if file.parent.name == "workflows":
        assert {"name", "permissions", "jobs"} <= set(read)
        for job in read["jobs"].values():
            assert job["runs-on"]
            assert all("uses" in step or "run" in step for step in job["steps"])
    elif file.name != "config.yml":
        assert {"name", "description", "body"} <= set(read)


def test_paths_targets_and_groups_exist() -> None:
    text = "\n".join(file.read_text(encoding="utf-8") for file in FILES)
    makefile, project = (ROOT / "Makefile").read_text(), (ROOT / "pyproject.toml").read_text()
    targets = re.findall(r"run: make ([a-z-]+)", text)
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    for group in re.findall(r"--group (\w+)", text):
        assert re.search(rf"^{group} = \[", project, re.MULTILINE)
    for path in re.findall(r"tests/[\w/.]+", text):
        assert (ROOT / path).exists()


def test_the_core_is_checked_on_every_python_that_is_promised() -> None:
    promised = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    check = yaml.safe_load((ROOT / ".github" / "workflows" / "check.yml").read_text())
    assert check["jobs"]["core"]["strategy"]["matrix"]["python"] == promised
