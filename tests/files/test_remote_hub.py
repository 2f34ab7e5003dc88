"""Runs on the Hub: a fake one, whose branches are steps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest
from fsspec import AbstractFileSystem
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from remote_runs import STEPS, small_run

from driftline.checkpoints.inspection import inspect
from driftline.checkpoints.trajectory import open_trajectory
from driftline.errors import InputError
from driftline.files import remote
from driftline.forecast.request import ForecastRequest
from driftline.writing.extrapolate import extrapolate

MakeRun = Callable[..., Path]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_WAITS", (0.0, 0.0, 0.0))


@pytest.fixture
def run(make_run: MakeRun, rng: np.random.Generator) -> Path:
    return small_run(make_run, rng)


_NOT_FOUND: Any = SimpleNamespace(headers={}, request=None, status_code=404)


class FakeHub:
    """What HfApi says of one repository."""

    COMMITS: ClassVar = {"main": "f" * 40, **{f"step_{step}": f"{step:040x}" for step in STEPS}}

    def list_repo_refs(self, repository: str) -> Any:
        assert repository == "lab/run"
        branches = [SimpleNamespace(name=name, target_commit=commit) for name, commit in self.COMMITS.items()]
        return SimpleNamespace(branches=branches, tags=[])

    def model_info(self, repository: str, revision: str | None = None) -> Any:
        if repository != "lab/run":
            raise RepositoryNotFoundError("404", response=_NOT_FOUND)
        if (revision or "main") not in self.COMMITS:
            raise RevisionNotFoundError("404", response=_NOT_FOUND)
        return SimpleNamespace(sha=self.COMMITS[revision or "main"])


class HubFiles(AbstractFileSystem):
    """A folder with one folder for each commit, under the paths of HfFileSystem: owner/name@commit/file."""

    protocol = "hf"
    root: ClassVar[Path]

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        status = (self.root / path).stat()
        kind = "directory" if (self.root / path).is_dir() else "file"
        return {"name": path, "size": status.st_size, "type": kind, "blob_id": "0"}

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        path = self._strip_protocol(path)
        found = [self.info(f"{path}/{child.name}") for child in (self.root / path).iterdir()]
        return found if detail else [row["name"] for row in found]

    def _open(self, path: str, mode: str = "rb", cache_type: str = "readahead", **kwargs: Any) -> Any:
        return (self.root / path).open("rb")


def _snapshot(cache: Path) -> Callable[..., str]:
    def download(repository: str, *, revision: str, allow_patterns: list[str]) -> str:
        for name in allow_patterns:
            (cache / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(HubFiles.root / f"{repository}@{revision}" / name, cache / name)
        return str(cache)

    return download


@pytest.fixture
def hub(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """`lab/run`: a branch for each step, and the last checkpoint again on main."""
    fsspec.register_implementation("hf", HubFiles, clobber=True)
    monkeypatch.setattr("huggingface_hub.HfApi", FakeHub)
    monkeypatch.setattr("huggingface_hub.snapshot_download", _snapshot(tmp_path / "cache"))
    HubFiles.root = tmp_path / "hub"
    for step in STEPS:
        shutil.copytree(run / f"checkpoint-{step}", HubFiles.root / f"lab/run@{FakeHub.COMMITS[f'step_{step}']}")
    shutil.copytree(run / "checkpoint-30", HubFiles.root / f"lab/run@{'f' * 40}/checkpoint-30")
    yield HubFiles.root
    fsspec.register_implementation("hf", "huggingface_hub.HfFileSystem", clobber=True)


def test_branches_of_the_hub_are_steps_at_their_commits(run: Path, hub: Path, tmp_path: Path) -> None:
    trajectory = open_trajectory("hf://lab/run")
    assert trajectory.steps == tuple(STEPS)
    assert str(trajectory.checkpoints[1].path) == f"hf://lab/run@{10:040x}"
    assert remote.hub_name(trajectory.checkpoints[1].path) == "lab/run"
    record = inspect(trajectory)
    assert record["problems"] == [
        *inspect(open_trajectory(run))["problems"],
        "hf://lab/run: other branches than those of steps, main among them, are not used; name one as STEP=hf://lab/run@main to use it",
    ]
    extrapolate(trajectory, tmp_path / "out", ForecastRequest((50,)))
    sources = json.loads((tmp_path / "out" / "driftline.json").read_text())["sources"]
    assert sources[0]["commit"] == FakeHub.COMMITS["step_0"]


def test_revisions_and_folders_of_the_hub_are_pinned(hub: Path) -> None:
    pairs = ["10=hf://lab/run@step_10", "30=hf://lab/run@main/checkpoint-30", "20=hf://lab/run@step_20/"]
    paths = [str(checkpoint.path) for checkpoint in open_trajectory(pairs, base="hf://lab/run@step_0").checkpoints]
    commits = [FakeHub.COMMITS[f"step_{step}"] for step in STEPS[:3]]
    assert paths == [*(f"hf://lab/run@{commit}" for commit in commits), f"hf://lab/run@{'f' * 40}/checkpoint-30"]
    assert open_trajectory("hf://lab/run@main").steps == (30,)


def test_what_the_hub_lacks_is_said(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="hf://lab/other@main: the Hub knows no such repository, or it is private"):
        open_trajectory("hf://lab/other@main")
    with pytest.raises(InputError, match="hf://lab/run@step_7: the repository has no such branch, tag or commit"):
        open_trajectory("7=hf://lab/run@step_7")
    with pytest.raises(InputError, match="hf://lab is not hf://owner/name"):
        open_trajectory("hf://lab")

    def offline(self: FakeHub, repository: str) -> Any:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(FakeHub, "list_repo_refs", offline)
    with pytest.raises(InputError, match=r"hf://lab/run cannot be reached \(Name or service not known\): check the"):
        open_trajectory("hf://lab/run")
