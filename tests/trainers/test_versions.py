"""The page of layouts names the versions that are installed here, of every trainer that is."""

import re

import pytest
from environments import HERE, TRAINERS

PAGE = (HERE.parents[1] / "docs" / "layouts.md").read_text()
CONSTRAINTS = (HERE.parents[1] / "constraints.txt").read_text()


def rows() -> dict[str, str]:
    """Package -> its row of the table, by the names of the registry."""
    cells = re.findall(r"^\| ([\w, -]+) \| ([\d., ]+) \| (.+) \|$", PAGE, re.MULTILINE)
    return {name.split(",")[0].lower().replace("-", "_"): f"{versions} {said}" for name, versions, said in cells}


@pytest.mark.parametrize("trainer", [name for name in TRAINERS if (HERE / name / "requirements.txt").is_file()])
def test_the_page_names_what_is_installed(trainer):
    lines = (HERE / trainer / "requirements.txt").read_text().split()
    assert all("==" in line for line in lines), "a requirement is not pinned"
    package, version = lines[0].split("==")
    named = {"trl": "transformers", "megatron-core": "megatron_core"}.get(package, package.replace("-", "_"))
    assert version in rows()[named]


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_the_page_names_what_is_shared(package):
    version = re.search(rf"^{package}==([\d.]+)", CONSTRAINTS, re.MULTILINE)
    assert version is not None
    assert version[1] in PAGE
